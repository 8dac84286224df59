"""`--metrics-port`: what Prometheus may ask of a supervisor, over the least of HTTP.

`/metrics` tells of the whole queue, as that of an application does, and of this supervisor;
`/health/queue` whether the queue is well.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from fastedgy.admin.health import HealthCheck
from fastedgy.admin.metrics import CONTENT_TYPE, Metrics
from fastedgy.admin.service import QueueAdmin
from fastedgy.admin.types import Level
from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.connections import Connections
from fastedgy.errors import ConfigurationError
from fastedgy.models import queue_tables
from fastedgy.supervisor.options import SupervisorOptions
from fastedgy.supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from prometheus_client.core import Metric

logger = logging.getLogger("fastedgy.supervisor")

PATIENCE = 10.0
"""Seconds that a request may take to be asked, and to be answered."""
LONGEST_HEAD = 16_384
_STATUSES = {200: "OK", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
             503: "Service Unavailable"}  # fmt: skip

Answer = tuple[int, str, bytes]


@asynccontextmanager
async def serving_metrics(
    supervisor: Supervisor,
    settings: Settings,
    options: SupervisorOptions,
    url: str,
    config: QueuedTaskConfig,
) -> AsyncIterator[None]:
    """Answer on `options.metrics_port` while the block runs.

    Where QUEUE_ADMIN_TOKEN or QUEUE_ADMIN_READ_TOKEN is set, one of them is asked for. Raises
    ConfigurationError when the port is taken, or prometheus-client is not installed.
    """
    connections = Connections(url, settings, config)
    admin = QueueAdmin(connections, config)
    metrics = Metrics(
        admin.connection, queue_tables(), config, beside=lambda: _of_supervisor(supervisor)
    )
    site = MetricsSite(metrics, admin, [config.admin_token, config.admin_read_token])
    try:
        server = await asyncio.start_server(
            site.answer, options.metrics_host, options.metrics_port, limit=LONGEST_HEAD
        )
    except OSError as error:
        raise ConfigurationError(
            f"--metrics-port={options.metrics_port} cannot be opened on {options.metrics_host}: "
            f"{error.strerror or error}."
        ) from None
    facts = {"host": options.metrics_host, "port": options.metrics_port}
    logger.info("metrics are served", extra=facts)
    try:
        yield
    finally:
        server.close()
        await connections.close()


class MetricsSite:
    """Answers one request a connection."""

    def __init__(self, metrics: Metrics, admin: QueueAdmin, tokens: list[str | None]) -> None:
        """`tokens`: one of them has to be sent, if there are any."""
        self._metrics = metrics
        self._admin = admin
        self._health = HealthCheck()
        self._tokens = [token.encode() for token in tokens if token]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read a request, answer it, and close the connection."""
        with suppress(OSError, TimeoutError, EOFError, asyncio.LimitOverrunError):
            try:
                async with asyncio.timeout(PATIENCE):
                    head = await reader.readuntil(b"\r\n\r\n")
                    status, kind, body = await self._answer(head)
                    writer.write(_head(status, kind, len(body)) + body)
                    await writer.drain()
            finally:
                writer.close()

    async def _answer(self, head: bytes) -> Answer:
        lines = head.decode("latin-1").split("\r\n")
        method, _, rest = lines[0].partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        given = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        if not self._may(given.get("authorization", "")):
            return 401, "text/plain", b"Send one of the queue's tokens: Authorization: Bearer\n"
        if method != "GET":
            return 405, "text/plain", b"Only GET.\n"
        try:
            if path == "/metrics":
                return 200, CONTENT_TYPE, await self._metrics.exposition()
            if path == "/health/queue":
                return await self._healthy()
        except Exception:
            logger.exception("%s could not be answered", path)
            return 503, "text/plain", b"It cannot be read at the moment.\n"
        return 404, "text/plain", b"There are /metrics and /health/queue.\n"

    async def _healthy(self) -> Answer:
        health = await self._health.look(self._admin)
        told = {"level": health.level, "sentence": health.sentence, "reasons": [*health.reasons]}
        status = 503 if health.level is Level.unhealthy else 200
        return status, "application/json", json.dumps(told).encode()

    def _may(self, authorization: str) -> bool:
        if not self._tokens:
            return True
        given = authorization.removeprefix("Bearer ").encode()
        found = [hmac.compare_digest(given, token) for token in self._tokens]
        return authorization.startswith("Bearer ") and any(found)


def _head(status: int, kind: str, length: int) -> bytes:
    return (
        f"HTTP/1.1 {status} {_STATUSES[status]}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {length}\r\nConnection: close\r\n\r\n"
    ).encode()


def _of_supervisor(supervisor: Supervisor) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    crew = supervisor.crew
    yield GaugeMetricFamily(
        "queued_supervisor_workers", "Worker processes of this supervisor.",
        value=len(crew.children),
    )  # fmt: skip
    yield CounterMetricFamily(
        "queued_supervisor_deaths", "Workers of this supervisor that ended unasked.",
        value=crew.deaths,
    )  # fmt: skip
