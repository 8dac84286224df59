"""Durable background tasks for FastAPI on Postgres: enqueue in a route, run in workers, watch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastedgy.app import FastEdgy

    __version__: str

__all__ = ["FastEdgy", "__version__"]


def __getattr__(name: str) -> Any:
    # FastAPI and the package's metadata are read only by those who ask for them.
    if name == "FastEdgy":
        from fastedgy.app import FastEdgy

        return FastEdgy
    if name == "__version__":
        from importlib.metadata import version

        return version("fastedgy")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
