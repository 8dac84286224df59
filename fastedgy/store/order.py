"""The order in which new tasks are written: parents before their children."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from fastedgy.errors import CircularWorkflow
from fastedgy.store.newtask import NewTask


def in_order(tasks: Sequence[NewTask]) -> Sequence[NewTask]:
    """The tasks with parents before children; as they are, where that is so already.

    Raises CircularWorkflow when some of them would wait for each other.
    """
    ids = {task.id for task in tasks}
    seen: set[UUID] = set()
    for task in tasks:
        if task.parents and any(id in ids and id not in seen for id in task.parents):
            return _sorted(tasks, ids)
        seen.add(task.id)
    return tasks


def _sorted(tasks: Sequence[NewTask], ids: set[UUID]) -> list[NewTask]:
    open_parents: dict[UUID, set[UUID]] = {}
    children: dict[UUID, list[NewTask]] = {}
    ready: list[NewTask] = []
    for task in tasks:
        parents = ids.intersection(task.parents)
        if parents:
            open_parents[task.id] = parents
            for id in parents:
                children.setdefault(id, []).append(task)
        else:
            ready.append(task)
    done: list[NewTask] = []
    while ready:
        task = ready.pop()
        done.append(task)
        for child in children.get(task.id, ()):
            left = open_parents[child.id]
            left.discard(task.id)
            if not left:
                del open_parents[child.id]
                ready.append(child)
    if open_parents:
        raise CircularWorkflow(_circle(open_parents))
    return done


def _circle(open_parents: dict[UUID, set[UUID]]) -> list[UUID]:
    """One circle: from any task that waits, follow who it waits for until somebody is met again."""
    path: list[UUID] = []
    id = next(iter(open_parents))
    while id not in path:
        path.append(id)
        id = next(iter(open_parents[id]))
    return path[path.index(id) :]
