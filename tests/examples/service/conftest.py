"""The service as its README starts it, with a bucket, a mail server and a receiver of webhooks."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import httpx
import pytest
from commands import Background, environment, free_port, shell
from helpers import PATIENCE, create_database, drop_database, wait_until
from service_partner import Partner
from service_site import SERVICE, TOKEN, Postbox, Receiver, Service

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip


@pytest.fixture(scope="session")
def partner() -> Iterator[Partner]:
    """Who takes payments for the service."""
    made = Partner()
    threading.Thread(target=made.server.serve_forever, args=(0.05,), daemon=True).start()
    yield made
    made.open.set()
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="session")
def service(
    server_url: str, partner: Partner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The two commands of the README, and the world around them."""
    data = tmp_path_factory.mktemp("service")
    url = create_database(server_url)
    postbox, receiver = Postbox(), Receiver()
    threads = [
        threading.Thread(target=each.serve_forever, args=(0.05,), daemon=True)
        for each in (postbox.server, receiver.server)
    ]
    for thread in threads:
        thread.start()
    s3, port = free_port(), free_port()
    bucket = f"http://127.0.0.1:{s3}"
    env = environment(
        DATABASE_URL=url, SERVICE_DATA=str(data / "data"), SERVICE_S3_ENDPOINT=bucket,
        SERVICE_SMTP_PORT=str(postbox.port), QUEUE_RETRY_BACKOFF="0.2",
        SERVICE_PARTNER_URL=partner.url, QUEUE_ADMIN_TOKEN=TOKEN, QUEUE_HEARTBEAT="1", **KEYS,
    )  # fmt: skip
    try:
        s3_server = f"{sys.executable} -m moto.server -H 127.0.0.1 -p {s3}"
        with Background(s3_server, data, env) as moto:
            shell("fastedgy db migrate", SERVICE, env, within=2 * PATIENCE)
            command = f"fastedgy serve --workers 2 --port {port}"
            with Background(command, SERVICE, env) as pool:
                base = f"http://127.0.0.1:{port}"
                made = Service(base, env, data, postbox, receiver, bucket, moto, pool)

                def ready() -> None:
                    try:
                        assert len(made.workers()) == 2
                        made.get("/tasks/scheduled")
                    except httpx.TransportError as error:
                        raise AssertionError(pool.output()) from error

                try:
                    wait_until(ready, within=2 * PATIENCE)
                    yield made
                finally:
                    made.close()
    finally:
        for each in (postbox.server, receiver.server):
            each.shutdown()
            each.server_close()
        drop_database(server_url, url)
