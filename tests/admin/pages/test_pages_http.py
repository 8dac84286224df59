"""What the pages answer, whoever asks and however: without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

import httpx
import pytest
from board import PAGES, Board
from fastapi import FastAPI, HTTPException
from helpers import NO_TLS, run

from fastedgy.admin import Identity, tokens
from fastedgy.admin.auth import SESSION_COOKIE, QueueAuth
from fastedgy.admin.pages import pages_router

WRITE, READ = "write-token-of-the-tests", "read-token-of-the-tests"
NEVER = "01975c1e-8f3a-7b52-9c1d-2f6e0a4b7c11"
LISTS = (
    "/", "/tasks", "/queues", "/workers", "/schedules", "/breakers", "/doctor", "/audit",
)  # fmt: skip
ACTIONS = (
    "/tasks/bulk", "/tasks/bulk/apply", "/tasks/bulk/undo", f"/tasks/{NEVER}/retry",
    f"/tasks/{NEVER}/cancel", f"/tasks/{NEVER}/copy", f"/tasks/{NEVER}/delete",
    f"/tasks/{NEVER}/move", f"/tasks/{NEVER}/reprioritise", "/queues/pause",
    "/queues/resume", "/queues/limits", "/breakers/reset", "/doctor/fix", "/schedules/pause",
    "/schedules/resume", "/schedules/run", "/schedules/save", "/schedules/preview",
    "/workers/drain", "/workers/drain/apply", "/doctor/fix-all", "/doctor/fix-all/apply",
    f"/tasks/{NEVER}/cancel-tree", f"/tasks/{NEVER}/cancel-tree/apply",
    f"/tasks/{NEVER}/retry-tree", f"/tasks/{NEVER}/retry-tree/apply",
)  # fmt: skip
FORM = {
    "name": "nowhere", "action": "retry", "id": NEVER, "operation": NEVER,
    "kind": "cron", "when": "0 2 * * *", "code": "x", "title": "x", "queue": "q", "priority": "1",
}  # fmt: skip


def client(board: Board, token: str | None) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=board.url + PAGES, headers=headers, timeout=20, verify=NO_TLS)


@pytest.fixture
def ann(board: Board) -> Iterator[httpx.Client]:
    with client(board, WRITE) as known:
        yield known


@pytest.fixture
def bob(board: Board) -> Iterator[httpx.Client]:
    with client(board, READ) as known:
        yield known


@pytest.fixture
def nobody(board: Board) -> Iterator[httpx.Client]:
    with client(board, None) as unknown:
        yield unknown


def test_who_is_not_known_gets_401_and_a_form_to_sign_in(nobody: httpx.Client) -> None:
    for path in (*LISTS, f"/tasks/{NEVER}", "/find?q=x", "/schedules/edit?name=x"):
        answer = nobody.get(path)
        assert (answer.status_code, path) == (401, path)
        assert 'action="/queue/sign-in"' in answer.text
    for path in ACTIONS:
        assert (nobody.post(path, data=FORM).status_code, path) == (401, path)


def test_who_may_only_read_sees_everything_and_changes_nothing(bob: httpx.Client) -> None:
    for path in LISTS:
        page = bob.get(path)
        assert (page.status_code, path) == (200, path)
        assert 'method="post"' not in page.text
    for path in ACTIONS:
        answer = bob.post(path, data=FORM)
        assert (answer.status_code, path) == (403, path)
        assert "bob may read the queue, and not change it." in answer.text


@pytest.mark.parametrize("headers", [
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example"}, {"Origin": "null"},
])  # fmt: skip
def test_a_form_of_another_site_changes_nothing(ann: httpx.Client, headers: dict[str, str]) -> None:
    for path in (*ACTIONS, "/sign-in", "/sign-out"):
        answer = ann.post(path, data=FORM | {"token": WRITE}, headers=headers)
        assert (answer.status_code, path) == (403, path)


def test_every_page_forbids_what_is_not_its_own(ann: httpx.Client) -> None:
    for path in LISTS:
        answer = ann.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"


class Inline(HTMLParser):
    """Finds what the policy would not let run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [f"{tag} {name}" for name in given if name == "style" or name[:2] == "on"]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.found.append(tag)


def test_no_page_has_inline_scripts_or_styles(board: Board, ann: httpx.Client) -> None:
    id = board.add("send_email", "<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>")
    for path in (*LISTS, f"/tasks/{id}"):
        found = Inline()
        found.feed(ann.get(path).text)
        assert (path, found.found) == (path, [])


def test_the_own_files_are_small_and_kept_by_browsers(nobody: httpx.Client) -> None:
    size = 0
    for name in ("queue.css", "queue.js"):
        answer = nobody.get(f"/static/{name}?v=1")
        assert "immutable" in answer.headers["cache-control"]
        size += len(answer.content)
    assert size < 60_000
    assert nobody.get("/static/site.py").status_code == 404
    assert nobody.get("/static/..%2Fsite.py").status_code == 404


def test_a_token_becomes_a_session_and_ends_with_the_sign_out(nobody: httpx.Client) -> None:
    wrong = nobody.post("/sign-in", data={"token": "x" * 20, "after": "/queues"})
    assert (wrong.status_code, "none of the queue" in wrong.text) == (401, True)

    answer = nobody.post("/sign-in", data={"token": READ, "after": "/tasks?state=failed"})
    assert answer.headers["location"] == "/queue/tasks?state=failed"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(SESSION_COOKIE)
    for part in ("HttpOnly", "SameSite=strict", "Path=/queue", "Max-Age=43200"):
        assert part in cookie
    assert READ not in cookie
    assert nobody.get("/queues").status_code == 200

    nobody.post("/sign-out")
    assert nobody.get("/queues").status_code == 401


@pytest.mark.parametrize("after", ["https://evil.example", "//evil.example", "/\\evil", "x", "/\n"])
def test_signing_in_leads_nowhere_else(nobody: httpx.Client, after: str) -> None:
    answer = nobody.post("/sign-in", data={"token": READ, "after": after})

    assert answer.headers["location"] == "/queue/"


@pytest.mark.parametrize(("path", "status"), [
    ("/tasks?state=odd", 400), ("/tasks?since=soon", 400), ("/tasks?cursor=odd", 400),
    ("/tasks?tree=x", 400), ("/tasks/7", 422), (f"/tasks/{NEVER}", 404),
    (f"/find?q={NEVER}", 404), ("/schedules/edit?name=nowhere", 404), ("/audit?cursor=x", 400),
    ("/schedules/edit?name=%00", 422),
])  # fmt: skip
def test_what_makes_no_sense_is_answered_by_a_page(
    ann: httpx.Client, path: str, status: int
) -> None:
    answer = ann.get(path, follow_redirects=True)

    assert answer.status_code == status
    assert 'id="problem"' in answer.text


@pytest.mark.parametrize(("path", "data", "status"), [
    ("/tasks/bulk", {"action": "odd", "id": FORM["id"]}, 400),
    ("/tasks/bulk", {"action": "retry"}, 400),
    ("/tasks/bulk", {"action": "retry", "id": "x"}, 400),
    ("/tasks/bulk/apply", {"action": "move", "id": FORM["id"]}, 400),
    ("/tasks/bulk/apply", {"action": "reprioritise", "id": FORM["id"], "priority": "x"}, 400),
    ("/tasks/bulk/undo", {"operation": "x"}, 400),
    ("/queues/limits", {"name": "q", "max_running": "0"}, 400),
    ("/queues/limits", {"name": "q", "rate": "nan"}, 400),
    ("/queues/pause", {}, 422),
    ("/queues/pause", {"name": "\x00"}, 422),
    ("/breakers/reset", {"name": "a\x00"}, 422),
    ("/schedules/run", {"name": "\x00"}, 422),
    ("/workers/drain", {"name": "\x00"}, 422),
    ("/schedules/odd", {"name": "nightly report"}, 400),
    ("/schedules/save", {"name": "nightly report", "kind": "cron", "when": "x"}, 400),
    ("/schedules/save", {"name": "nightly report", "kind": "odd", "when": "x"}, 400),
    ("/workers/drain", {"name": "nowhere"}, 404),
    ("/workers/drain/apply", {"name": "nowhere"}, 404),
    (f"/tasks/{NEVER}/cancel-tree", {}, 404),
    (f"/tasks/{NEVER}/retry-tree/apply", {}, 404),
])  # fmt: skip
def test_an_action_that_makes_no_sense_does_nothing(
    ann: httpx.Client, path: str, data: dict[str, str], status: int
) -> None:
    answer = ann.post(path, data=data)

    assert answer.status_code == status
    assert 'id="problem"' in answer.text


def test_arguments_that_are_redacted_are_on_no_page(board: Board, ann: httpx.Client) -> None:
    id = board.add("send_email", "ann@example.org", "Welcome", "s3cret-of-ann")
    board.reaches(id, "done")

    assert "ann@example.org" in ann.get(f"/tasks/{id}").text
    for path in (f"/tasks/{id}", "/tasks"):
        assert "s3cret-of-ann" not in ann.get(path).text


def test_a_long_log_is_shown_from_its_end_and_read_from_its_beginning(
    board: Board, ann: httpx.Client
) -> None:
    id = board.add("send_email", "ann@example.org", "Welcome")
    board.reaches(id, "done")
    board.fetch(
        "INSERT INTO queued_task_logs (logged_at, task_id, run, seq, level, logger, message)"
        " SELECT clock_timestamp(), $1, 9, n, 'debug', 'x', 'line ' || n"
        " FROM generate_series(1, 700) AS n",
        id,
    )
    path = f"/tasks/{id}"
    last = ann.get(path).text
    assert ("line 700<" in last, "line 401<" in last, "line 400<" in last) == (True, True, False)
    first = ann.get(path, params={"after": "begin"}).text
    assert ("line 299<" in first, "line 300<" in first) == (True, False)
    assert "?after=9.299" in first
    assert "line 300<" in ann.get(path, params={"after": "9.299"}).text
    assert ann.get(path, params={"after": "x"}).status_code == 400


def test_a_piece_of_an_id_opens_its_task(board: Board, ann: httpx.Client) -> None:
    id = board.add("send_email", "ann@example.org", "Welcome")

    for piece in (id, id[-12:], f" {id.replace('-', '')} "):
        assert ann.get("/find", params={"q": piece}).headers["location"] == f"/queue/tasks/{id}"
    found = ann.get("/find", params={"q": "send_email"}).headers["location"]
    assert found == "/queue/tasks?name=send_email"


def test_the_pages_find_themselves_under_any_prefix() -> None:
    inner, outer = FastAPI(), FastAPI()
    inner.include_router(pages_router(tokens(WRITE)), prefix="/deep/queue")
    outer.mount("/sub", inner)
    at_the_root = FastAPI()
    at_the_root.include_router(pages_router(tokens(WRITE)))

    for app, path, root, base in (
        (outer, "/sub/deep/queue/tasks", "", "/sub/deep/queue"),
        (at_the_root, "/tasks", "", ""),
        (at_the_root, "/proxied/tasks", "/proxied", "/proxied"),
        (at_the_root, "/tasks", "/proxied", "/proxied"),
    ):
        page = _ask(app, path, root=root)
        assert (page.status_code, f'action="{base}/sign-in"' in page.text) == (401, True)
        assert f'href="{base}/static/queue.css' in page.text
        assert 'value="/tasks"' in page.text


def test_an_application_with_an_auth_of_its_own_has_no_form() -> None:
    def known_to_the_app(user: str | None = None) -> Identity:
        if user is None:
            raise HTTPException(401, "Sign in to the shop.", headers={"WWW-Authenticate": "Basic"})
        raise HTTPException(303, headers={"Location": "/login"})

    app = FastAPI()
    app.include_router(pages_router(QueueAuth(known_to_the_app)), prefix="/queue")
    page = _ask(app, "/queue/tasks")

    assert (page.status_code, page.headers["www-authenticate"]) == (401, "Basic")
    assert "Sign in to the shop." in page.text
    assert "<form" not in page.text
    assert _ask(app, "/queue/tasks?user=x").headers["location"] == "/login"
    assert _ask(app, "/queue/sign-in", "POST").status_code in (404, 405)


def _ask(app: FastAPI, path: str, method: str = "GET", *, root: str = "") -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, root_path=root)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as asking:
            return await asking.request(method, path)

    return run(ask())
