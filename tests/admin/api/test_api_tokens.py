"""Who may do what, asked of every route there is."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from panels import READ, WRITE, Panel, bearer

from fastedgy.admin import Identity, queue_router, tokens
from fastedgy.admin.auth import SESSION_COOKIE, TokenAuth
from fastedgy.app import FastEdgy
from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import AdminClosed, ConfigurationError

ID = "01975c1e-8f3a-7b52-9c1d-2f6e0a4b7c11"
READING_POSTS = {"/queue/api/bulk/preview"}


def routes() -> list[tuple[str, str]]:
    """Every method and path of the API, its parameters filled in."""
    app = FastAPI()
    app.include_router(queue_router(tokens(WRITE), pages=False, config=QueuedTaskConfig()))
    found = []
    for template, methods in app.openapi()["paths"].items():
        path = template.replace("{id}", ID).replace("{operation}", ID).replace("{name}", "mail")
        found += [(method.upper(), path) for method in methods]
    return found


ROUTES = routes()


def test_the_list_is_not_empty() -> None:
    assert len(ROUTES) > 40


@pytest.mark.parametrize("headers", [{}, bearer("x" * 30), {"Authorization": f"Basic {WRITE}"},
                                     {"Cookie": f"{SESSION_COOKIE}=9999999999.abc"}])  # fmt: skip
async def test_without_a_token_every_path_answers_401(
    panel: Panel, headers: dict[str, str]
) -> None:
    for method, path in ROUTES:
        answer = await panel.nobody.request(method, path, headers=headers)
        assert (answer.status_code, method, path) == (401, method, path)
        assert answer.json()["code"] == "Unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_with_the_read_token_every_write_answers_403(panel: Panel) -> None:
    writes = [(m, p) for m, p in ROUTES if m != "GET" and p not in READING_POSTS]

    assert len(writes) > 15
    for method, path in writes:
        answer = await panel.reader.request(method, path)
        assert (answer.status_code, method, path) == (403, method, path)
        assert answer.json()["detail"] == "prometheus may read the queue, and not change it."


async def test_no_get_changes_anything(panel: Panel) -> None:
    before = await panel.admin.audit()
    for method, path in ROUTES:
        if method == "GET" and not path.endswith("/events"):
            answer = await panel.reader.get(path)
            assert answer.status_code in (200, 404, 422, 503), (path, answer.text)
    assert await panel.admin.audit() == before


def test_without_auth_nothing_is_mounted() -> None:
    with pytest.raises(AdminClosed, match="nothing says who may use them. Set QUEUE_ADMIN_TOKEN"):
        queue_router()
    with pytest.raises(AdminClosed):
        tokens()
    with pytest.raises(AdminClosed):
        FastEdgy(admin=True)

    assert not [path for path in FastEdgy().openapi()["paths"] if "queue" in path]


def test_one_setting_mounts_it_in_a_fastedgy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_ADMIN_TOKEN", WRITE)
    monkeypatch.setenv("QUEUE_ADMIN_PREFIX", "/ops/tasks")

    paths = FastEdgy().openapi()["paths"]

    assert {"/ops/tasks/api/tasks", "/metrics", "/health/queue"} <= paths.keys()
    assert FastEdgy(admin=False).openapi()["paths"] == {}


@pytest.mark.parametrize("token", ["short", " " + "x" * 30, "x" * 15])
def test_a_token_that_is_no_secret_is_refused(token: str) -> None:
    with pytest.raises(ConfigurationError, match="has to have 16 characters at least"):
        tokens(token)


def test_the_same_token_cannot_both_read_and_write() -> None:
    with pytest.raises(ConfigurationError, match="must be another one"):
        tokens(WRITE, read=WRITE)


def test_a_session_names_no_secret_and_ends_with_its_token() -> None:
    auth = tokens({"ann": WRITE}, read=READ)
    cookie = auth.sign_in(WRITE)

    assert cookie is not None
    assert WRITE not in cookie
    assert auth.signed_in(cookie) == Identity("ann", can_write=True, by_cookie=True)
    assert auth.sign_in("x" * 30) is None
    assert tokens({"ann": "other" * 5}).signed_in(cookie) is None
    until, _, signature = cookie.partition(".")
    assert auth.signed_in(f"{int(until) + 1}.{signature}") is None
    assert auth.signed_in(f"1.{signature}") is None
    assert auth.signed_in("²³.é\udcff") is None


async def signed_in(panel: Panel, headers: dict[str, str]) -> httpx.Response:
    auth = tokens({"ann": WRITE}, read={"prometheus": READ})
    cookie = {"Cookie": f"{SESSION_COOKIE}={auth.sign_in(WRITE)}"}
    return await panel.nobody.post("/queue/api/queues/mail/pause", headers={**cookie, **headers})


async def test_a_browser_on_another_sites_page_changes_nothing(panel: Panel) -> None:
    assert (await signed_in(panel, {})).status_code == 200
    assert (await signed_in(panel, {"Origin": "http://panel"})).status_code == 200
    assert (await signed_in(panel, {"Sec-Fetch-Site": "same-origin"})).status_code == 200
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"},
                    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):  # fmt: skip
        answer = await signed_in(panel, headers)
        assert answer.status_code == 403, headers
        assert "another site" in answer.json()["detail"]


def application(auth: Any) -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(queue_router(auth, prefix="/q", pages=False))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://q")


async def test_an_application_may_bring_its_own_dependency() -> None:
    async def user(login: str = "nobody") -> str:
        return login

    async def staff(name: str = Depends(user)) -> Identity:
        if name == "nobody":
            raise HTTPException(401, "Log in.")
        return Identity(name, can_write=name == "root")

    async with application(staff) as client:
        assert (await client.get("/q/api/functions")).status_code == 401
        assert (await client.get("/q/api/functions", params={"login": "ann"})).status_code == 200
        denied = await client.post("/q/api/queues/mail/pause", params={"login": "ann"})
        assert denied.json()["detail"] == "ann may read the queue, and not change it."
        # The application does not run here, so there is no queue.
        allowed = await client.post("/q/api/queues/mail/pause", params={"login": "root"})
        assert allowed.status_code == 503


async def test_a_dependency_that_returns_no_identity_lets_nobody_in() -> None:
    async with application(lambda: None) as client:
        assert (await client.get("/q/api/functions")).status_code == 401
    async with application(lambda: "ann") as client:
        with pytest.raises(ConfigurationError, match="has to return a fastedgy.admin.Identity"):
            await client.get("/q/api/functions")


def test_every_token_is_compared_however_early_one_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    auth = tokens({"ann": WRITE, "bob": "b" * 20}, read=READ)
    assert isinstance(auth, TokenAuth)
    monkeypatch.setattr(
        "hmac.compare_digest", lambda one, other: compared.append(one) or one == other
    )

    assert auth.known_by(WRITE) == Identity("ann", can_write=True)
    assert len(compared) == 3
    assert {len(one) for one in compared} == {32}
