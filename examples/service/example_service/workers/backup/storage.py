"""The bucket, by any S3 API. boto3 blocks, so that it is called in threads."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from example_service.settings import ServiceSettings


class Bucket:
    """`Inject(Bucket)`: the bucket of the settings, made when it is first used."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.name = settings.s3_bucket
        self._client: Any = boto3.client("s3", endpoint_url=settings.s3_endpoint)

    async def upload(self, path: Path, key: str) -> None:
        """Put a file into the bucket, whole or not at all."""
        await asyncio.to_thread(self._upload, path, key)

    async def download(self, key: str, path: Path) -> None:
        """Get a file from the bucket."""
        await asyncio.to_thread(self._client.download_file, self.name, key, str(path))

    async def keys(self, prefix: str) -> list[str]:
        """What is in the bucket, by name."""
        pages = self._client.get_paginator("list_objects_v2")
        found = await asyncio.to_thread(
            lambda: list(pages.paginate(Bucket=self.name, Prefix=prefix))
        )
        return sorted(item["Key"] for page in found for item in page.get("Contents", ()))

    async def delete(self, key: str) -> None:
        """Remove a file from the bucket."""
        await asyncio.to_thread(self._client.delete_object, Bucket=self.name, Key=key)

    def _upload(self, path: Path, key: str) -> None:
        try:
            self._client.head_bucket(Bucket=self.name)
        except ClientError:
            self._client.create_bucket(Bucket=self.name)
        self._client.upload_file(str(path), self.name, key)
