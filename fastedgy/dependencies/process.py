"""The one container of this process."""

from __future__ import annotations

from fastedgy.dependencies.container import Container

_container = Container()


def get_container_service() -> Container:
    """The container of this process: the same for routes, tasks, commands and scripts."""
    return _container
