"""Settings: the only module that reads the environment.

Two typed classes, each checked as a whole when it is made: `Settings` (the application) and
`QueuedTaskConfig` (the queue). Durations are seconds.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from fastedgy.errors import ConfigurationError


def _names(value: object) -> object:
    """`"a, b"` as people type it in an environment, or a list."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


class _Checked(BaseSettings):
    """Settings whose mistakes are one sentence each instead of a Pydantic report."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(self._explain(error)) from None

    @classmethod
    def _explain(cls, error: ValidationError) -> str:
        sentences = []
        for item in error.errors():
            field = str(item["loc"][0]) if item["loc"] else ""
            reason = item["msg"].removeprefix("Value error, ")
            if not field:
                sentences.append(reason)
                continue
            name = cls.variable(field)
            sentences.append(f"{name}={item['input']!r} makes no sense: {reason}")
        return "; ".join(sentences)

    @classmethod
    def variable(cls, field: str) -> str:
        """The environment variable of a field."""
        known = cls.model_fields.get(field)
        if known is None:
            return field
        if isinstance(known.validation_alias, AliasChoices):
            return str(known.validation_alias.choices[0])
        return f"{cls.model_config.get('env_prefix', '')}{field}".upper()


class Settings(_Checked):
    """What the application needs to know of its surroundings."""

    model_config = SettingsConfigDict(validate_assignment=True, extra="ignore")

    database_url: str | None = Field(
        None,
        validation_alias=AliasChoices("DATABASE_URL", "FASTEDGY_DATABASE_URL", "database_url"),
        description="Where Postgres is, in any usual form. Absent: the embedded Postgres of the "
        "project's folder.",
    )
    database_pool_size: PositiveInt = Field(
        5, description="Connections that Edgy keeps open in each process for your own queries."
    )
    database_max_overflow: NonNegativeInt = Field(
        5, description="Connections that Edgy may open beyond the pool's size under load."
    )
    database_connect_timeout: PositiveFloat = Field(
        10, description="Seconds to wait for a new connection."
    )
    app: str | None = Field(
        None,
        validation_alias=AliasChoices("FASTEDGY_APP", "app"),
        description="The application as `module:attribute`. Absent: `app` in main.py, app.py, "
        "app/main.py or api.py.",
    )
    data_dir: str = Field(
        ".fastedgy",
        validation_alias=AliasChoices("FASTEDGY_DATA_DIR", "data_dir"),
        description="Where the embedded Postgres keeps its data, beside the application.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="From which level on the commands log."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="How the commands log: for people, or one JSON object a line."
    )

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


def _queue_names(field: str) -> AliasChoices:
    """`QUEUE_X` is the documented name, `QUEUED_TASK_X` the one of earlier systems."""
    return AliasChoices(f"QUEUE_{field.upper()}", f"QUEUED_TASK_{field.upper()}", field)


class QueuedTaskConfig(_Checked):
    """How the queue and its workers behave. Read once from `QUEUE_*`; durations in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="QUEUE_",
        validate_assignment=True,
        extra="ignore",
        alias_generator=None,
    )

    max_workers: PositiveInt = Field(
        default_factory=lambda: os.cpu_count() or 1,
        le=1_000,
        validation_alias=_queue_names("max_workers"),
        description="Worker processes of one `queue start`. Default: the number of CPUs.",
    )
    min_workers: NonNegativeInt | None = Field(
        None,
        validation_alias=_queue_names("min_workers"),
        description="Worker processes kept while idle. Absent: as many as max_workers.",
    )
    concurrency: PositiveInt = Field(
        100,
        le=100_000,
        validation_alias=_queue_names("concurrency"),
        description="Tasks that one worker process runs at a time.",
    )
    queues: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        validation_alias=_queue_names("queues"),
        description="Queues that the workers serve, separated by commas. Empty: all of them.",
    )
    task_timeout: PositiveFloat = Field(
        300,
        validation_alias=AliasChoices(
            "QUEUE_TASK_TIMEOUT", "QUEUED_TASK_TIMEOUT", "QUEUED_TASK_TASK_TIMEOUT", "task_timeout"
        ),
        description="Seconds after which a running task counts as failed.",
    )
    max_retries: NonNegativeInt = Field(
        3,
        le=2**31 - 1,
        validation_alias=_queue_names("max_retries"),
        description="How often a failed task is tried again: 3 means 4 calls in all.",
    )
    max_losses: PositiveInt = Field(
        3,
        validation_alias=_queue_names("max_losses"),
        description="How many worker processes a task may lose before it counts as failed.",
    )
    retry_backoff: PositiveFloat = Field(
        5,
        validation_alias=_queue_names("retry_backoff"),
        description="Seconds before the first retry; each further one waits four times as long.",
    )
    retry_backoff_max: PositiveFloat = Field(
        1800,
        validation_alias=_queue_names("retry_backoff_max"),
        description="Seconds that a retry waits at most.",
    )
    enqueue_timeout: PositiveFloat = Field(
        10,
        validation_alias=_queue_names("enqueue_timeout"),
        description="Seconds for which an INSERT is repeated while the database is away.",
    )
    statement_timeout: PositiveFloat = Field(
        10,
        validation_alias=_queue_names("statement_timeout"),
        description="Seconds after which a statement of the engine counts its connection as lost.",
    )
    heartbeat: PositiveFloat = Field(
        5,
        validation_alias=_queue_names("heartbeat"),
        description="Seconds between two signs of life of a worker process.",
    )
    lease: PositiveFloat = Field(
        30,
        validation_alias=_queue_names("lease"),
        description="Seconds without a sign of life after which a worker has lost its tasks.",
    )
    drain_timeout: PositiveFloat = Field(
        30,
        validation_alias=_queue_names("drain_timeout"),
        description="Seconds that running tasks get to end after SIGTERM.",
    )
    worker_idle_timeout: PositiveFloat = Field(
        60,
        validation_alias=_queue_names("worker_idle_timeout"),
        description="Seconds without work after which a worker above min_workers ends.",
    )
    worker_max_rss: NonNegativeInt = Field(
        0,
        validation_alias=_queue_names("worker_max_rss"),
        description="Megabytes of memory at which a worker is replaced after a drain. 0: never.",
    )
    polling_interval: PositiveFloat = Field(
        2,
        validation_alias=_queue_names("polling_interval"),
        description="Seconds between two looks at the table where NOTIFY is off, or not heard.",
    )
    fallback_polling_interval: PositiveFloat = Field(
        30,
        validation_alias=_queue_names("fallback_polling_interval"),
        description="Seconds between two looks at the table beside NOTIFY: one may be lost.",
    )
    use_postgresql_notify: bool = Field(
        True,
        validation_alias=_queue_names("use_postgresql_notify"),
        description="Whether to use LISTEN and NOTIFY. Switch off behind a pooler in transaction "
        "mode.",
    )
    notify_channel: str = Field(
        "queue_new_task",
        pattern=r"^[a-z_][a-z0-9_]{0,40}$",
        validation_alias=_queue_names("notify_channel"),
        description="The channel of new tasks; those of ends and of control are named after it.",
    )
    log_limit: PositiveInt = Field(
        10_000,
        validation_alias=_queue_names("log_limit"),
        description="Log lines kept of one run; what comes after is counted and dropped.",
    )
    max_result_size: PositiveInt = Field(
        16_000_000,
        validation_alias=_queue_names("max_result_size"),
        description="Bytes of JSON that a result, or the arguments of one task, may have.",
    )
    retention_days: PositiveFloat = Field(
        30,
        validation_alias=_queue_names("retention_days"),
        description="Days for which ended tasks are kept before the workers prune them.",
    )
    retention_failed_days: PositiveFloat | None = Field(
        None,
        validation_alias=_queue_names("retention_failed_days"),
        description="Days for which failed and cancelled tasks are kept. Absent: as all others.",
    )
    stats_days: PositiveFloat = Field(
        90,
        validation_alias=_queue_names("stats_days"),
        description="Days for which the workers' counts are kept, by the hour.",
    )
    archive_dir: str | None = Field(
        None,
        validation_alias=_queue_names("archive_dir"),
        description="A folder into which workers write the tasks that they prune, as JSON lines, "
        "before they delete them. Absent: they are only deleted.",
    )
    key_retention_days: PositiveFloat = Field(
        30,
        validation_alias=_queue_names("key_retention_days"),
        description="Days for which events that were sent and idempotency keys are kept.",
    )
    task_modules: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        validation_alias=_queue_names("task_modules"),
        description="Packages whose functions may run as tasks, separated by commas. Empty: those "
        "that the application itself is made of. Functions with @task may always run.",
    )
    signing_keys: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        validation_alias=_queue_names("signing_keys"),
        description="Secrets that sign tasks, separated by commas: the first signs, all verify. "
        "With them, workers refuse what is not signed; closures can be tasks with them only.",
    )

    admin_token: str | None = Field(
        None,
        repr=False,
        validation_alias=_queue_names("admin_token"),
        description="The secret of those who may see and change the queue over HTTP. Given, a "
        "FastEdgy application mounts the API and the dashboard.",
    )
    admin_read_token: str | None = Field(
        None,
        repr=False,
        validation_alias=_queue_names("admin_read_token"),
        description="The secret of those who may only look, such as Prometheus.",
    )
    admin_prefix: str = Field(
        "/queue",
        pattern=r"^(/[A-Za-z0-9_.~-]+)+$",
        validation_alias=_queue_names("admin_prefix"),
        description="The path below which the API and the dashboard are.",
    )
    traces: bool = Field(
        False,
        validation_alias=_queue_names("traces"),
        description="Whether to make OpenTelemetry spans of enqueueing and running tasks. Needs "
        "`fastedgy[otel]`.",
    )

    _split = field_validator("queues", "task_modules", "signing_keys", mode="before")(_names)

    @model_validator(mode="after")
    def _fits_together(self) -> QueuedTaskConfig:
        if self.lease < 3 * self.heartbeat:
            raise ValueError(
                f"QUEUE_LEASE ({self.lease:g} s) must be at least three times QUEUE_HEARTBEAT "
                f"({self.heartbeat:g} s), or one slow heartbeat would give running tasks away"
            )
        if self.min_workers is not None and self.min_workers > self.max_workers:
            raise ValueError(
                f"QUEUE_MIN_WORKERS ({self.min_workers}) must not be above QUEUE_MAX_WORKERS "
                f"({self.max_workers})"
            )
        if self.retry_backoff > self.retry_backoff_max:
            raise ValueError(
                f"QUEUE_RETRY_BACKOFF ({self.retry_backoff:g} s) must not be above "
                f"QUEUE_RETRY_BACKOFF_MAX ({self.retry_backoff_max:g} s)"
            )
        return self

    @property
    def done_channel(self) -> str:
        """The channel on which the ends of awaited tasks are told."""
        return f"{self.notify_channel}_done"

    @property
    def control_channel(self) -> str:
        """The channel on which workers are told to cancel a running task."""
        return f"{self.notify_channel}_control"

    @property
    def events_channel(self) -> str:
        """The channel on which workers tell those who watch what happens."""
        return f"{self.notify_channel}_events"
