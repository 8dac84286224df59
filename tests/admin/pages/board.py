"""A served application with its workers, and a visitor with a browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
from commands import Background
from helpers import NO_TLS, PATIENCE, run, wait_until

from fastedgy.database import connect

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PAGES = "/queue"


@contextmanager
def browsing() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield browser
        browser.close()


class Board:
    """The application, its workers and its database."""

    def __init__(self, database_url: str, url: str, served: Background) -> None:
        self.database_url = database_url
        self.url = url
        self.served = served

    def fetch(self, statement: str, *values: Any) -> list[Any]:
        """Rows of the database."""

        async def ask() -> list[Any]:
            connection = await connect(self.database_url, application_name="fastedgy tests")
            try:
                return list(await connection.fetch(statement, *values))
            finally:
                await connection.close()

        return run(ask())

    def has_workers(self, number: int) -> None:
        """Wait until so many workers run."""

        def check() -> None:
            rows = self.fetch("SELECT FROM queued_task_workers WHERE state = 'running'")
            assert len(rows) >= number, self.served.output()

        wait_until(check)

    def add(self, name: str, *args: Any, times: int = 1, **options: Any) -> str:
        """Add a task by the application's route, as a user does; the id of the first."""
        query = {"name": name, "times": times, **options}
        answer = httpx.post(
            f"{self.url}/add", params=query, json=list(args), timeout=PATIENCE, verify=NO_TLS
        )
        assert answer.status_code == 200, answer.text
        first: str = answer.json()[0]
        return first

    def reaches(self, id: str, *states: str) -> Any:
        """Wait until a task is in one of these states; its row."""

        def check() -> Any:
            (row,) = self.fetch("SELECT * FROM queued_tasks WHERE id = $1", id)
            assert row["state"] in states, dict(row)
            return row

        return wait_until(check)

    def clear(self) -> None:
        """Leave nothing behind that the next test would find."""
        self.fetch("UPDATE queued_tasks SET cancel_requested = true WHERE state = 'doing'")
        self.fetch("DELETE FROM queued_tasks WHERE state <> 'doing'")
        self.fetch("UPDATE queued_task_queues SET paused = false WHERE paused")


class Visitor:
    """A page of a browser, which keeps what went wrong there."""

    def __init__(self, board: Board, page: Any) -> None:
        self.board = board
        self.page = page
        self.wrong: list[str] = []
        page.set_default_timeout(PATIENCE * 1000)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", self._asked)

    @classmethod
    @contextmanager
    def entering(cls, board: Board, browser: Any, **context: Any) -> Iterator[Self]:
        """A visitor with cookies of its own. In the end, nothing may have gone wrong."""
        opened = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **context})
        try:
            visitor = cls(board, opened.new_page())
            yield visitor
            visitor.leave()
        finally:
            opened.close()

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def _asked(self, request: Any) -> None:
        asked = urlsplit(request.url)
        if asked.scheme != "data" and asked.netloc != urlsplit(self.board.url).netloc:
            self.wrong.append(f"asked for {request.url}")

    def sign_in(self, token: str) -> None:
        """Sign in by the form that a page shows to who is not known."""
        self.page.goto(self.board.url + PAGES + "/")
        self.page.fill("input[name=token]", token)
        self.page.click("text=Sign in >> nth=-1")
        self.page.wait_for_selector(".states")
        # The answer to who is not known is 401, which a browser counts as an error.
        self.wrong = [each for each in self.wrong if "401" not in each]

    def leave(self) -> None:
        """Leave the page; nothing may have gone wrong until then."""
        self.page.goto("about:blank")
        wrong, self.wrong = self.wrong, []
        assert wrong == [], wrong

    def open(self, path: str) -> int:
        """Go to a page; the status of the answer."""
        answer = self.page.goto(self.board.url + PAGES + path)
        status: int = answer.status
        return status

    def sees(self, text: str, within: float = PATIENCE) -> None:
        """Wait until a text is to be seen."""
        self.page.get_by_text(text).first.wait_for(timeout=within * 1000)

    def counts(self, selector: str, number: int) -> None:
        """Wait until so many of these are there."""
        found = self.page.locator(selector)

        def check() -> None:
            assert found.count() == number, selector

        wait_until(check)
