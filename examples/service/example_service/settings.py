"""What the service needs to know of its surroundings, read from the environment as SERVICE_*."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """`Inject(ServiceSettings)` in routes and tasks."""

    model_config = SettingsConfigDict(env_prefix="SERVICE_")

    data: Path = Path("data")
    """The folder of exports, uploads and temporary files."""

    s3_endpoint: str | None = None
    """An S3 API other than Amazon's. Keys and region come from AWS_*, as boto3 reads them."""

    s3_bucket: str = "backups"
    smtp_host: str = "127.0.0.1"
    smtp_port: int = 25
    sender: str = "service@example.com"
    webhook_timeout: float = 10.0
    """Seconds."""

    management: str = "management@example.com"
    """Who gets the reports on large sums, too."""

    partner_url: str = "http://127.0.0.1:8100"
    """The HTTP API of the partners who take payments, ship parcels and know exchange rates."""

    def folder(self, name: str) -> Path:
        """A folder of the service's data, made if it is not there."""
        path = self.data / name
        path.mkdir(parents=True, exist_ok=True)
        return path
