"""An example while it is served."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from city import City
from serving import Site


class Example:
    """One of the examples while it is served."""

    def __init__(self, module: ModuleType, site: Site, city: City, db: Any) -> None:
        self.module = module
        self.site = site
        self.city = city
        self.db = db
        self.pauses: list[float] = []

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What is in the example's database."""
        return [tuple(row) for row in self.db._connection.execute(query)]

    @property
    def alerts(self) -> list[str]:
        """What was said on Slack."""
        return [body["text"] for body in self.city["hooks.slack.com"].bodies]
