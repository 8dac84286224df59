"""Who may see the queue, and who may change it. Nothing of it is open to anybody unknown.

Two ways: `tokens(…)`, which compares secrets, or a dependency of the application's own that returns
an `Identity`. Reading and writing are separate permissions.
"""

# FastAPI reads the annotations of what it calls. Those of an object cannot be text, so this module
# does without `from __future__ import annotations`.

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from fastedgy.errors import AdminClosed, ConfigurationError

SHORTEST_TOKEN = 16
"""Characters. `python -c "import secrets; print(secrets.token_urlsafe())"` makes one of 43."""
SESSION_COOKIE = "fastedgy_queue"
SESSION_SECONDS = 12 * 3600
"""For how long a browser stays signed in."""

UNKNOWN = "Who are you? Send one of the queue's tokens: `Authorization: Bearer …`."
MAY_NOT_WRITE = "{name} may read the queue, and not change it."
FROM_ELSEWHERE = "This request comes from a page of another site, and changes nothing here."


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks. `name` is what the audit calls them.

    `by_cookie`: known by what a browser sends unasked, so that writes must come from our own pages.
    """

    name: str
    can_write: bool = False
    by_cookie: bool = False


class QueueAuth:
    """What routes depend on: `Depends(auth.read)` and `Depends(auth.write)` give an `Identity`.

    `read` answers 401 to whom it does not know, `write` also 403 to who may only read, and to a
    browser that another site sends.
    """

    can_sign_in = False
    """Whether there is a sign-in with a token, for browsers (see `TokenAuth`)."""

    def __init__(self, identify: Callable[..., Any]) -> None:
        """`identify` is a dependency that returns an `Identity`, or raises HTTPException."""

        async def read(who: Annotated[Any, Depends(identify)]) -> Identity:
            if who is None:
                raise unknown()
            if not isinstance(who, Identity):
                raise ConfigurationError(
                    f"The auth= of queue_router returned {type(who).__name__}, and has to return a "
                    "fastedgy.admin.Identity (or to raise HTTPException)."
                )
            return who

        async def write(request: Request, who: Annotated[Identity, Depends(read)]) -> Identity:
            if not who.can_write:
                raise HTTPException(403, MAY_NOT_WRITE.format(name=who.name))
            if is_from_elsewhere(request):
                raise HTTPException(403, FROM_ELSEWHERE)
            return who

        self.read: Callable[..., Awaitable[Identity]] = read
        self.write: Callable[..., Awaitable[Identity]] = write


class TokenAuth(QueueAuth):
    """Secrets, compared in constant time: as bearer token, or once for a browser's session.

    `sign_in` gives the value of the cookie `SESSION_COOKIE`. It names no secret, ends after
    `SESSION_SECONDS`, and counts as long as its token is one of ours.
    """

    can_sign_in = True

    def __init__(self, writers: Mapping[str, str], readers: Mapping[str, str]) -> None:
        """Names and their tokens. Raises ConfigurationError for tokens that are no secrets."""
        self._known: list[tuple[bytes, Identity]] = []
        for names, can_write in ((writers, True), (readers, False)):
            for name, token in names.items():
                _check(name, token)
                self._known.append((_digest(token), Identity(name, can_write=can_write)))
        if len({digest for digest, _ in self._known}) < len(self._known):
            raise ConfigurationError("Each token for the queue's pages must be another one.")
        bearer = HTTPBearer(
            auto_error=False, scheme_name="QueueToken", description="One of the queue's tokens."
        )

        async def identify(
            request: Request,
            given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
        ) -> Identity:
            who = self.known_by(given.credentials if given else None)
            who = who or self.signed_in(request.cookies.get(SESSION_COOKIE))
            if who is None:
                raise unknown()
            return who

        super().__init__(identify)

    def known_by(self, token: str | None) -> Identity | None:
        """Whose token this is. Takes as long for a wrong one as for a right one."""
        found = None
        given = _digest(token or "")
        for digest, who in self._known:
            if hmac.compare_digest(given, digest):
                found = who
        return found

    def sign_in(self, token: str) -> str | None:
        """The cookie of a new session; None when the token is none of ours."""
        given = _digest(token)
        for digest, _ in self._known:
            if hmac.compare_digest(given, digest):
                until = str(int(time.time()) + SESSION_SECONDS)
                return f"{until}.{_signature(digest, until)}"
        return None

    def signed_in(self, cookie: str | None) -> Identity | None:
        """Whose session this is, if it has not ended."""
        until, _, signature = (cookie or "").partition(".")
        if not (until.isascii() and until.isdigit()) or int(until) < time.time():
            return None
        given = signature.encode("utf-8", "surrogateescape")
        found = None
        for digest, who in self._known:
            if hmac.compare_digest(_signature(digest, until).encode(), given):
                found = who
        return replace(found, by_cookie=True) if found else None


def tokens(
    write: str | Mapping[str, str] | None = None, *, read: str | Mapping[str, str] | None = None
) -> TokenAuth:
    """Auth by secrets: who has a `write` token may read and write, who has a `read` token may read.

    Each is a secret of 16 characters at least, or a mapping of names (for the audit) to secrets.
    Raises AdminClosed when there is none, ConfigurationError when one is too short.
    """
    writers = {"admin": write} if isinstance(write, str) else dict(write or {})
    readers = {"reader": read} if isinstance(read, str) else dict(read or {})
    if not writers and not readers:
        raise AdminClosed
    return TokenAuth(writers, readers)


def auth_of(given: QueueAuth | Callable[..., Any] | None) -> QueueAuth:
    """The auth that `queue_router` was given. Raises AdminClosed when it was given none."""
    if given is None:
        raise AdminClosed
    return given if isinstance(given, QueueAuth) else QueueAuth(given)


def is_from_elsewhere(request: Request) -> bool:
    """Whether a browser sends this because of another site's page. Other clients never do."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


def unknown() -> HTTPException:
    """The answer to who is not known."""
    return HTTPException(401, UNKNOWN, headers={"WWW-Authenticate": "Bearer"})


def _check(name: str, token: str) -> None:
    if len(token) < SHORTEST_TOKEN or token.strip() != token:
        raise ConfigurationError(
            f"The token of {name!r} for the queue's pages has to have {SHORTEST_TOKEN} characters "
            "at least, without spaces around. This makes one: "
            '`python -c "import secrets; print(secrets.token_urlsafe())"`.'
        )


def _digest(token: str) -> bytes:
    # Of a fixed length, so that the comparison tells nothing of the token's own.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _signature(digest: bytes, until: str) -> str:
    key = hashlib.sha256(b"fastedgy queue session" + digest).digest()
    return hmac.new(key, until.encode(), hashlib.sha256).hexdigest()
