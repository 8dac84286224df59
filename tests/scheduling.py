"""How pytest-xdist shares out the tests: a file at a time, and what takes longest first.

A file stays in one process, so that what its tests share is set up once, and so do the files of a
folder that share a running application. Whoever is done takes the next: what is short comes last,
so that nobody is alone with something long at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    import pytest

TOGETHER = ("tests/examples/service/", "tests/admin/pages/")
FIRST = (
    "tests/faults/test_chaos.py",
    "tests/examples/service/",
    "tests/cli/test_demo.py",
    "tests/faults/test_poolers_and_hosts.py",
    "tests/faults/test_stopping.py",
    "tests/admin/pages/",
    "tests/admin/api/test_api_schemas.py",
    "tests/test_embedded.py",
    "tests/worker/test_processes.py",
    "tests/faults/",
    "tests/tasks/test_inprocess_kill.py",
    "tests/cli/",
    "tests/benchmarks/",
    "tests/docs/",
    "tests/test_costs.py",
    "tests/store/test_model.py",
    "tests/admin/api/",
    "tests/workflows/",
    "tests/scheduler/test_workers_fire.py",
    "tests/test_guide.py",
    "tests/test_migrate.py",
    "tests/worker/",
)
"""What takes seconds, the longest first."""


class Files(LoadScopeScheduling):
    """A file is a unit of work, or a folder of `TOGETHER`."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in TOGETHER if file.startswith(folder)), file)


def rank(item: pytest.Item) -> int:
    """The place of a test's file in the line."""
    return next(
        (place for place, start in enumerate(FIRST) if item.nodeid.startswith(start)), len(FIRST)
    )
