"""Watching the application's files, for `--reload`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})

_QUIET = 0.1

Snapshot = dict[str, tuple[int, int]]


def snapshot(root: Path) -> Snapshot:
    """Time of change (ns) and size of every *.py below `root`.

    Hidden folders, virtual environments and packages of others are left out.
    """
    return {file.path: (stat.st_mtime_ns, stat.st_size) for file, stat in _files(str(root))}


async def changes(root: Path, known: Snapshot, *, interval: float) -> AsyncIterator[list[str]]:
    """Yield the files that are not as in `known`, then those that are not as last yielded.

    A burst of changes is one: it is yielded once the files have been quiet for 0.1 s. Polls every
    `interval` seconds, in a thread: a large tree takes a while, and signals must not wait for it.
    """
    pending: set[str] = set()
    while True:
        await asyncio.sleep(min(_QUIET, interval) if pending else interval)
        current = await asyncio.to_thread(snapshot, root)
        changed = {path for path, _ in current.items() ^ known.items()}
        known = current
        if pending and not changed:
            yield sorted(pending)
            pending = set()
        pending |= changed


def _files(folder: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # deleted or made unreadable since its parent was read
        return
    if any(entry.name == "pyvenv.cfg" for entry in entries):
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith(".") and entry.name not in _SKIPPED:
                    yield from _files(entry.path)
            elif entry.name.endswith(".py"):
                yield entry, entry.stat()
        except OSError:  # deleted since its folder was read: that is a change, seen as such
            continue
