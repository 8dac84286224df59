"""What is not there: paths and methods below the API's prefix that no route has."""

# FastAPI reads the annotations of what it calls, so this module does without
# `from __future__ import annotations`.

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from fastedgy.admin.api.problems import ProblemRoute, problem
from fastedgy.admin.auth import QueueAuth

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def nothing_router(auth: QueueAuth, routers: Iterable[APIRouter]) -> APIRouter:
    """Answers what `routers` do not, in the form that all errors have. To be included last."""
    routes: list[Any] = [route for router in routers for route in router.routes]
    router = APIRouter(route_class=ProblemRoute, include_in_schema=False)

    def methods_at(path: str) -> list[str]:
        return sorted(
            {method for route in routes if route.path_regex.match(path) for method in route.methods}
        )

    @router.api_route("/{path:path}", methods=METHODS, dependencies=[Depends(auth.read)])
    async def nothing(request: Request, path: str) -> Response:
        """Say what is wrong about it: the path or the method."""
        if allowed := methods_at(f"/{path}"):
            return problem(
                405, "MethodNotAllowed",
                f"{request.url.path} takes {', '.join(allowed)}, not {request.method}.",
                headers={"Allow": ", ".join(allowed)},
            )  # fmt: skip
        if path.endswith("/") and methods_at(f"/{path.rstrip('/')}"):
            return RedirectResponse(request.url.replace(path=request.url.path.rstrip("/")), 307)
        return problem(404, "NotFound", f"There is nothing at {request.url.path}.")

    return router
