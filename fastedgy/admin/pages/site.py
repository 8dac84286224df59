"""What all pages share: templates, static files, where we are mounted, headers, errors as pages."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined

from fastedgy.admin.api.problems import status_of
from fastedgy.admin.auth import Identity, QueueAuth
from fastedgy.admin.pages import words
from fastedgy.errors import FastEdgyError
from fastedgy.wording import escaped

STATIC = {"queue.css": "text/css; charset=utf-8", "queue.js": "text/javascript; charset=utf-8"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NAVIGATION = (
    ("", "Overview"),
    ("/tasks", "Tasks"),
    ("/queues", "Queues"),
    ("/workers", "Workers"),
    ("/schedules", "Schedules"),
    ("/breakers", "Breakers"),
    ("/doctor", "Doctor"),
    ("/audit", "Audit"),
)
MESSAGES = {
    "retry": ("{what} is in the line again.", "{what} cannot be retried in its state."),
    "cancel": ("{what} is cancelled, or was asked to stop.", "{what} had ended already."),
    "copy": ("This is the copy. {what} is as it was.", ""),
    "delete": ("{what} was deleted.", "{what} has not ended, so it was not deleted."),
    "reprioritise": ("{what} has its new priority.", "{what} has started or ended."),
    "move": ("{what} is in its new queue.", "{what} has started or ended."),
    "pause": ("{what} is paused. What runs goes on.", ""),
    "resume": ("{what} goes on.", ""),
    "limits": ("The limits of {what} are set.", ""),
    "reset": ("{what} is closed: what it held may run.", ""),
    "run": ("{what} runs now.", ""),
    "edit": ("{what} was changed.", ""),
    "fix": ("{what} applied.", "It was cured meanwhile."),
    "drain": ("{what} asked to drain. What runs there may end.", ""),
    "cancel-tree": ("{what} cancelled, or asked to stop.", "All of them had ended already."),
    "retry-tree": ("{what} in the line again.", "None of them can be retried."),
    "bulk": ("{what}", ""),
}
"""What a page says after an action: when it was done, and when there was nothing to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request came in: `base` is the path that the pages are mounted at, without a final
    slash, `path` what follows it.
    """

    base: str
    path: str


def place_of(request: Request) -> Place:
    """Find the place: the pages do not know their prefix, so it is what precedes their own path."""
    root = request.scope.get("root_path", "").rstrip("/")
    inside = request.scope["path"].removeprefix(root).rstrip("/")
    own: str = request.scope["endpoint"].own_path
    parts = inside.split("/")
    base = "/".join(parts[: len(parts) - own.rstrip("/").count("/")])
    return Place(root + base, inside[len(base) :])


@functools.cache
def static_file(name: str) -> bytes:
    """A file of the pages, from the wheel."""
    return (files(__package__) / "static" / name).read_bytes()


@functools.cache
def _version() -> str:
    """Changes when a static file does, so that browsers may keep them for good."""
    digest = hashlib.sha256()
    for name in STATIC:
        digest.update(static_file(name))
    return digest.hexdigest()[:12]


@functools.cache
def environment() -> Environment:
    """The templates. Everything that is put into one is escaped."""
    made = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        number=words.number,
        span=words.span,
        milliseconds=words.milliseconds,
        moment=words.moment,
        ago=words.ago,
        shorten=words.shorten,
        visible=escaped,
        json_line=words.json_line,
        last_part=words.last_part,
        query=urlencode,
    )
    made.globals.update(count=words.count, navigation=NAVIGATION, call=words.call)
    return made


class Site:
    """Renders pages for one router. `auth` says who may see them."""

    def __init__(self, auth: QueueAuth, *, events: str | None) -> None:
        """`events`: the path of the server-sent events below the pages; None without them."""
        self.auth = auth
        self._events = events

    def page(
        self, request: Request, template: str, who: Identity | None, *, status: int = 200,
        headers: dict[str, str] | None = None, stream: str | None = "/events", **values: Any,
    ) -> HTMLResponse:  # fmt: skip
        """A page, or only its changing part for our own script, which asks for that by a header.

        `stream`: the API's events after which the page looks again.
        """
        place = place_of(request)
        events = None
        if who is not None and self._events is not None and stream is not None:
            events = place.base + self._events + stream
        text = environment().get_template(template).render(
            layout="fragment.html" if is_fragment(request) else "page.html",
            base=place.base,
            path=place.path,
            who=who,
            can_sign_out=bool(who and who.by_cookie and self.auth.can_sign_in),
            can_sign_in=self.auth.can_sign_in,
            can_write=bool(who and who.can_write),
            events=events,
            version=_version(),
            now=datetime.now(UTC),
            flash=_flash(request),
            **values,
        )  # fmt: skip
        return HTMLResponse(text, status, {**HEADERS, **(headers or {})})

    def confirm(
        self, request: Request, who: Identity, *, title: str, sentence: str, verb: str | None,
        action: str, leave: str, fields: Mapping[str, str] | None = None,
        parts: Mapping[str, Mapping[str, int]] | None = None,
    ) -> HTMLResponse:  # fmt: skip
        """A page that says what an action would do, and asks; our script shows it as a dialog.

        `action`: where `fields` are sent if it is meant; without a `verb` there is nothing to do.
        `parts`: what it is done to, counted in several ways. `leave`: where one goes otherwise.
        """
        return self.page(
            request, "confirm.html", who, title=title, sentence=sentence, verb=verb, action=action,
            leave=leave, fields=fields or {}, parts=parts or {}, stream=None,
        )  # fmt: skip

    def problem(
        self, request: Request, status: int, text: str, *, headers: dict[str, str] | None = None,
        wrong: bool = False, after: str | None = None,
    ) -> HTMLResponse:  # fmt: skip
        """A page that says what went wrong; for who is not known, with a form to sign in.

        `after`: where to go then, by default here. `wrong`: the token was.
        """
        if after is None and request.method == "GET":
            after = place_of(request).path + (f"?{request.url.query}" if request.url.query else "")
        return self.page(
            request, "problem.html", None, status=status, headers=headers, code=status, text=text,
            wrong=wrong, after=after or "/",
        )  # fmt: skip

    def route_class(self) -> type[APIRoute]:
        """Routes of this site: what they raise is answered with a page."""
        site = self

        class PageRoute(APIRoute):
            def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
                # Kept by the function: a router that includes ours may make each route anew.
                endpoint.__dict__.setdefault("own_path", path)
                super().__init__(path, endpoint, **options)

            def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
                inner = super().get_route_handler()

                async def answer(request: Request) -> Response:
                    try:
                        return await inner(request)
                    except HTTPException as error:
                        if error.status_code < 400:  # the application's own sign-in
                            raise
                        headers = dict(error.headers or {})
                        return site.problem(
                            request, error.status_code, error.detail, headers=headers
                        )
                    except RequestValidationError as error:
                        said = "; ".join(str(each["msg"]) for each in error.errors())
                        return site.problem(request, 422, f"That makes no sense: {said}.")
                    except FastEdgyError as error:
                        status = status_of(error) or (400 if isinstance(error, ValueError) else 500)
                        return site.problem(request, status, str(error))

                return answer

        return PageRoute


def is_fragment(request: Request) -> bool:
    """Whether our script asks, which puts the answer into the page that it is on."""
    return request.headers.get("x-fragment") == "1"


def back(request: Request, path: str, *, query: str = "", **values: Any) -> RedirectResponse:
    """To a page, after something was done there; `did`, `n` and `what` say what (MESSAGES)."""
    given = {name: value for name, value in values.items() if value not in (None, "")}
    whole = "&".join(part for part in (query, urlencode(given)) if part)
    target = place_of(request).base + path + (f"?{whole}" if whole else "")
    return RedirectResponse(target, 303, HEADERS)


def _flash(request: Request) -> tuple[bool, str] | None:
    """The message after an action. Its words are ours; only the name of the thing is given."""
    known = MESSAGES.get(request.query_params.get("did", ""))
    if known is None:
        return None
    well = request.query_params.get("n", "1") != "0"
    what = words.shorten(request.query_params.get("what", "It"), 160)
    return well, known[0 if well else 1].format(what=what)
