"""Static files, and signing in and out with a token. The only routes that need no auth."""

# FastAPI reads the annotations of routes that close over names, so that they cannot be text.

from typing import Annotated
from urllib.parse import unquote

from fastapi import APIRouter, Form, HTTPException, Request, Response

from fastedgy.admin.auth import (
    FROM_ELSEWHERE,
    SESSION_COOKIE,
    SESSION_SECONDS,
    TokenAuth,
    is_from_elsewhere,
)
from fastedgy.admin.pages.site import STATIC, Site, back, place_of, static_file

_FOR_GOOD = "public, max-age=31536000, immutable"


def add_routes(router: APIRouter, site: Site) -> None:
    """Add them to the pages' router."""

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        """A style sheet or script; its address names its version."""
        if name not in STATIC:
            raise HTTPException(404, f"There is no file {name[:100]!r}.")
        headers = {"Cache-Control": _FOR_GOOD, "X-Content-Type-Options": "nosniff"}
        return Response(static_file(name), media_type=STATIC[name], headers=headers)

    if not isinstance(site.auth, TokenAuth):
        return
    auth = site.auth

    @router.post("/sign-in")
    async def sign_in(
        request: Request, token: Annotated[str, Form()], after: Annotated[str, Form()] = "/"
    ) -> Response:
        """Give a browser a session for a token, and send it where it wanted to go."""
        if is_from_elsewhere(request):
            raise HTTPException(403, FROM_ELSEWHERE)
        cookie = auth.sign_in(token.strip())
        if cookie is None:
            return site.problem(request, 401, "", wrong=True, after=_inside(after))
        response = back(request, _inside(after))
        response.set_cookie(
            SESSION_COOKIE, cookie, max_age=SESSION_SECONDS, path=place_of(request).base or "/",
            secure=request.url.scheme == "https", httponly=True, samesite="strict",
        )  # fmt: skip
        return response

    @router.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        """Forget the session."""
        if is_from_elsewhere(request):
            raise HTTPException(403, FROM_ELSEWHERE)
        response = back(request, "/")
        response.delete_cookie(
            SESSION_COOKIE, path=place_of(request).base or "/", httponly=True, samesite="strict"
        )
        return response


def _inside(path: str) -> str:
    """A path below the pages; anything that could lead elsewhere is the first page."""
    inside = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    inside = inside and ".." not in unquote(path.split("?")[0]).split("/")
    return path if inside else "/"
