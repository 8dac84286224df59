"""The rows: Edgy models of the queue's tables, and the names of those tables."""

from __future__ import annotations

import sys

from fastedgy.models.tables import Tables

__all__ = ["Tables", "queue_tables"]

# Always the same object for the same names: it is a key that is looked up for each statement, and
# one that is not the very same object is compared name by name.
_met: dict[Tables, Tables] = {}


def queue_tables() -> Tables:
    """The tables that this process works with: the project's models name them, or the package.

    Raises ConfigurationError if two classes of the project compete for one table.
    """
    # Nobody subclassed what nobody imported; the models need Edgy, which takes half a second.
    base = sys.modules.get("fastedgy.models.base")
    names: Tables = Tables() if base is None else base.table_names()
    return _met.setdefault(names, names)
