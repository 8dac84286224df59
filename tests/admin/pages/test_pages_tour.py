"""Every page in a browser, before real workers."""

from __future__ import annotations

import pytest
from board import Board, Visitor


@pytest.mark.parametrize("path", ["/", "/tasks", "/queues", "/workers", "/schedules", "/breakers", "/doctor"])
def test_every_page_opens(ann: Visitor, path: str) -> None:
    assert ann.open(path) == 200
