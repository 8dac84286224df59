"""Every page in a browser: it opens without an error, everybody can read it, and it is live."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from board import Board, Visitor
from furnish import furnish
from helpers import run

from fastedgy.database import connect

PICTURES = os.environ.get("FASTEDGY_PICTURES")
"""A folder for pictures of all pages: those of the documentation."""
PAGES = {
    "overview": "/", "tasks": "/tasks", "queues": "/queues", "workers": "/workers",
    "schedules": "/schedules", "breakers": "/breakers", "doctor": "/doctor", "audit": "/audit",
    "failed-task": "", "running-task": "", "family": "",
    "schedule-edit": "/schedules/edit?name=nightly+report",
}  # fmt: skip
DIALOGS = {
    "drain": ("/workers", ("text=Drain all",)),
    "bulk-retry": ("/tasks?state=failed", ("[name=id] >> nth=0", "#every", "button[value=retry]")),
}
"""What asks before it does something: the page, and what is clicked there, one after the other."""
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 860}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 860}},
    "narrow": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}


@pytest.fixture(scope="module")
def paths(board: Board) -> Iterator[dict[str, str]]:
    """The pages of an application that has been at work, by name."""

    async def fill() -> None:
        connection = await connect(board.database_url, application_name="fastedgy tests")
        try:
            await furnish(connection)
        finally:
            await connection.close()

    run(fill())
    board.add("send_email", "ann@example.org", "Welcome", "s3cret", times=9)
    board.add("pay", 1, times=6)
    board.add("hold", 400.0, times=5)
    board.add("send_email", "bob@example.org", "Your order", "s3cret", times=2, delay=900)
    failed = board.add("charge", 7)
    running = board.add("import_rows", 5000, 240.0)
    board.add("import_rows", 700, 400.0)
    family = board.add("publish", "summer")
    board.reaches(family, "done")
    board.reaches(failed, "failed")
    board.reaches(running, "doing")
    # Names of hosts are longer than this machine's, mostly, and no line breaks at a dot.
    host = "orders.workers.production.europe.example.internal"
    board.fetch("UPDATE queued_task_workers SET server_name = $1", host)
    yield PAGES | {
        "failed-task": f"/tasks/{failed}",
        "running-task": f"/tasks/{running}",
        "family": f"/tasks/{family}",
    }
    board.clear()


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_is_right_for_everybody(
    board: Board, chromium: Any, paths: dict[str, str], look: str
) -> None:
    """No error on the console, no request elsewhere (both see `Visitor`), no serious finding of
    axe, nothing wider than the screen.
    """
    from axe_playwright_python.sync_playwright import Axe

    axe = Axe()
    with Visitor.entering(board, chromium, **LOOKS[look]) as visitor:
        visitor.open("/")
        _look_at("sign-in", look, visitor, axe)
        visitor.sign_in("write-token-of-the-tests")
        for name, path in paths.items():
            assert visitor.open(path) == 200, name
            _look_at(name, look, visitor, axe)
        for name, (path, clicks) in DIALOGS.items():
            visitor.open(path)
            for selector in clicks:
                visitor.page.click(selector)
            visitor.page.wait_for_selector("dialog button.main")
            _look_at(name, look, visitor, axe)


def _look_at(name: str, look: str, visitor: Visitor, axe: Any) -> None:
    # What axe looks at differs in its colours only.
    found = axe.run(visitor.page).response["violations"] if look != "narrow" else []
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert [(name, each["id"], each["nodes"][0]["html"]) for each in serious] == []
    width = visitor.page.evaluate("document.documentElement.scrollWidth")
    assert (name, width) == (name, LOOKS[look]["viewport"]["width"])
    if PICTURES:
        _picture(visitor.page, Path(PICTURES) / f"dashboard-{name}-{look}.png")


def _picture(page: Any, path: Path) -> None:
    """A picture in few colours, so that it is small. Of a list, only what fits on the screen."""
    from PIL import Image

    whole = not path.name.startswith(("dashboard-tasks", "dashboard-bulk"))
    shot = Image.open(BytesIO(page.screenshot(full_page=whole, animations="disabled")))
    shot = shot.convert("RGB").crop((0, 0, shot.width, min(shot.height, 1700)))
    shot.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)


def test_the_overview_shows_what_happens_while_it_happens(ann: Visitor, board: Board) -> None:
    ann.open("/")
    done = ann.page.locator("#states a:has(.done) b")
    before = done.inner_text()
    board.add("send_email", "ann@example.org", "Welcome", times=3)

    ann.page.wait_for_function(
        "before => document.querySelector('#states a:has(.done) b').innerText !== before",
        arg=before,
    )
    ann.counts("#states a", 7)


def test_the_range_of_the_plots_is_in_the_address(ann: Visitor) -> None:
    ann.open("/")
    ann.page.click("text=1 h")

    assert ann.page.url.endswith("?range=1h")
    ann.counts("#plot-throughput .hit", 60)
    ann.page.hover("#plot-throughput .hit >> nth=30")
    assert "done" in ann.page.inner_text(".tip")


def test_a_running_task_is_followed_to_its_end(ann: Visitor, board: Board) -> None:
    id = board.add("import_rows", 500, 4.0)
    board.reaches(id, "doing")
    ann.open(f"/tasks/{id}")
    bar = ann.page.locator("#why progress")
    bar.wait_for()
    first = float(bar.get_attribute("value") or 0)

    ann.page.wait_for_function(
        "first => document.querySelector('#why progress').value > first", arg=first
    )
    ann.sees("row 61 has no price")
    ann.page.wait_for_selector("#head .state.done")
    assert ann.page.inner_text("#result .mono") == "500"
    lines = ann.page.locator("#log li")
    assert lines.count() == 7

    ann.page.click("#log .tabs >> text=warning")
    assert ann.page.url.endswith("?level=warning")
    assert lines.count() == 1


def test_an_exception_is_folded_to_the_frames_of_the_application(
    ann: Visitor, board: Board
) -> None:
    id = board.add("charge", 12)
    board.reaches(id, "failed")
    ann.open(f"/tasks/{id}")

    ann.sees("failed for good")
    assert "in charge" in ann.page.locator("#error pre:visible").all_inner_texts()[2]
    ann.counts("#error details:not([open])", 2)
    assert "started, attempt 2" in ann.page.inner_text("#timeline")
    ann.counts("#timeline .fall rect.failed", 2)


def test_a_family_is_drawn_and_each_of_it_can_be_opened(ann: Visitor, board: Board) -> None:
    id = board.add("publish", "autumn")
    board.reaches(id, "done")
    ann.open(f"/tasks/{id}")

    boxes = ann.page.locator("#family .box")
    texts = boxes.all_text_contents()
    assert any("resize" in text and "13" in text for text in texts), texts
    boxes.last.click()
    ann.page.wait_for_url(lambda url: id not in url)
    assert "build_page" in ann.page.inner_text("h1")


def test_a_hidden_page_is_quiet_and_catches_up(ann: Visitor, board: Board) -> None:
    ann.open("/tasks?name=resize&queue=images")
    asked: list[str] = []
    hide = """hidden => {
        Object.defineProperty(document, 'hidden', {get: () => hidden, configurable: true});
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    ann.page.evaluate(hide, True)
    ann.page.on("request", lambda request: asked.append(request.url))
    id = board.add("resize", "hidden.png", 100)
    board.reaches(id, "done")
    assert ann.page.evaluate("live.source") is None
    assert asked == []

    ann.page.evaluate(hide, False)
    ann.page.wait_for_selector(f'tr[data-key="{id}"], #fresh:not([hidden])')


def test_what_is_paused_does_not_change(ann: Visitor, board: Board) -> None:
    ann.open("/tasks")
    ann.page.click("#live")
    assert ann.page.inner_text("#live") == "Paused"
    assert ann.page.evaluate("live.source") is None

    ann.page.click("#live")
    assert ann.page.inner_text("#live") == "Live"


def test_without_scripts_lists_are_read_and_actions_work(board: Board, chromium: Any) -> None:
    id = board.add("charge", 99)
    board.reaches(id, "failed")
    with Visitor.entering(board, chromium, java_script_enabled=False) as visitor:
        visitor.sign_in("write-token-of-the-tests")
        for path in ("/tasks?state=failed", "/queues", "/workers", "/schedules"):
            assert visitor.open(path) == 200
            assert visitor.page.locator("main table, main .process").count() > 0
        visitor.open("/tasks?state=failed&name=charge")
        visitor.page.check(f'input[value="{id}"]')
        visitor.page.click("button[value=retry]")
        visitor.sees("Retry these tasks?")
        visitor.page.click("text=Retry them")
        visitor.sees("1 task retried.")
