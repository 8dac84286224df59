"""The dashboard of a served application with a pool of workers, and a browser before it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from board import CHROMIUM, Board, Visitor, browsing
from commands import Background, environment, free_port
from helpers import create_database, drop_database

SITE = Path(__file__).parent / "site"


@pytest.fixture(scope="session")
def board(server_url: str, template: str) -> Iterator[Board]:
    """The served application and its workers, for all tests of the pages."""
    url = create_database(server_url, template)
    port = free_port()
    settings = environment(
        DATABASE_URL=url, QUEUE_HEARTBEAT="0.5", QUEUE_LEASE="4", QUEUE_DRAIN_TIMEOUT="1"
    )
    command = f"fastedgy serve --app board_app:app --port {port} --workers 2"
    queues = {"QUEUE_CONCURRENCY": "10"}
    with Background(command, SITE, settings | queues) as served:
        served.wait_for("Serving at", within=40)
        made = Board(url, f"http://127.0.0.1:{port}", served)
        made.has_workers(2)
        yield made
    drop_database(server_url, url)


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    """A browser, without a window. While it is open, no test of this process has an event loop."""
    if not CHROMIUM.exists():
        pytest.skip(f"There is no {CHROMIUM}: apt install chromium")
    pytest.importorskip("playwright", reason="pip install 'fastedgy[test]' brings Playwright")
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def signed_in(board: Board, chromium: object) -> Iterator[Visitor]:
    """A window for all tests of a module: a new one takes a second of the processor."""
    with Visitor.entering(board, chromium) as visitor:
        visitor.sign_in("write-token-of-the-tests")
        yield visitor


@pytest.fixture
def ann(signed_in: Visitor) -> Iterator[Visitor]:
    """Somebody who may change things, signed in."""
    yield signed_in
    signed_in.leave()


@pytest.fixture
def bob(board: Board, chromium: object) -> Iterator[Visitor]:
    """Somebody who may only read, signed in."""
    with Visitor.entering(board, chromium) as visitor:
        visitor.sign_in("read-token-of-the-tests")
        yield visitor


if str(SITE) not in sys.path:
    sys.path.append(str(SITE))
