"""Draining workers: one, those of a supervisor, or those of a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from asyncpg import Connection

from fastedgy.admin.types import Drain
from fastedgy.errors import AmbiguousId, InvalidTransition, WorkerNotFound
from fastedgy.models.tables import Tables
from fastedgy.store import audit, drains
from fastedgy.store.notify import Channels
from fastedgy.store.overview import WorkerRow, list_workers
from fastedgy.wording import count

FEWEST_DIGITS = 4
"""Of an id that is abbreviated."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Whom a name means. `kind`: worker, supervisor or server."""

    kind: str
    name: str
    workers: Sequence[WorkerRow]

    @property
    def supervisors(self) -> list[UUID]:
        """Those that end with their workers: none where one worker is meant."""
        if self.kind == "worker":
            return []
        return list(dict.fromkeys(row.supervisor_id for row in self.workers if row.supervisor_id))


async def preview(connection: Connection, tables: Tables, name: str, *, lease: float) -> Drain:
    """Say who would drain. Raises WorkerNotFound, AmbiguousId, InvalidTransition."""
    return _told(choose(await list_workers(connection, tables), name), lease)


async def drain(
    connection: Connection, tables: Tables, name: str, *, lease: float, actor: str, source: str,
    channels: Channels,
) -> Drain:  # fmt: skip
    """Ask them to drain, and write it down: in a transaction of the caller's."""
    chosen = choose(await list_workers(connection, tables), name)
    await drains.ask(
        connection, tables, workers=[row.id for row in chosen.workers],
        supervisors=chosen.supervisors, actor=actor, channels=channels,
    )  # fmt: skip
    told = _told(chosen, lease)
    await audit.note(
        connection, tables, actor=actor, source=source, action="worker.drain",
        target=f"{chosen.kind}:{chosen.name}",
        details={"workers": told.workers, "supervisors": told.supervisors},
    )  # fmt: skip
    return told


def choose(workers: Sequence[WorkerRow], name: str) -> Chosen:
    """Whom a name means: a server, `server/pid`, or an id of a worker or supervisor, which may be
    short. Web processes take no tasks: they are not meant with their server.
    """
    own = [row for row in workers if not row.is_web]
    if found := [row for row in own if row.server_name == name]:
        return Chosen("server", name, found)
    for row in workers:
        if name in (str(row.id), f"{row.server_name}/{row.pid}"):
            return _one(row)
    short = name.strip().replace("-", "").lower()
    if len(short) >= FEWEST_DIGITS:
        found = [row for row in workers if _fits(row.id, short)]
        if len(found) > 1:
            raise AmbiguousId(name, [row.id for row in found], "worker")
        if found:
            return _one(found[0])
        by = {row.supervisor_id for row in own if row.supervisor_id}
        ids = [id for id in by if _fits(id, short)]
        if len(ids) > 1:
            raise AmbiguousId(name, ids, "supervisor")
        if ids:
            theirs = [row for row in own if row.supervisor_id == ids[0]]
            return Chosen("supervisor", str(ids[0]), theirs)
    raise WorkerNotFound(name, [f"{row.server_name}/{row.pid}" for row in own])


def _fits(id: UUID, short: str) -> bool:
    return id.hex.startswith(short) or id.hex.endswith(short)


def _one(row: WorkerRow) -> Chosen:
    if row.is_web:
        raise InvalidTransition(
            f"{row.server_name}/{row.pid} is a web process, which takes no tasks from the queue. "
            "Stop its server instead."
        )
    return Chosen("worker", str(row.id), [row])


def _told(chosen: Chosen, lease: float) -> Drain:
    running = sum(row.busy for row in chosen.workers)
    return Drain(
        name=chosen.name,
        workers=[row.id for row in chosen.workers],
        supervisors=chosen.supervisors,
        running=running,
        sentence=" ".join([_who(chosen), _what_runs(running), *_beside(chosen, lease)]),
    )


def _who(chosen: Chosen) -> str:
    first = chosen.workers[0]
    if chosen.kind == "worker":
        after = "its supervisor starts another one" if first.supervisor_id else "nobody replaces it"
        return f"Worker {first.server_name}/{first.pid} takes no more tasks and ends; {after}."
    one, supervisors = len(chosen.workers) == 1, len(chosen.supervisors)
    place = f" on {first.server_name}" if chosen.kind == "server" else ""
    theirs = f", with {'its' if one else 'their'} " if supervisors else ""
    theirs += "supervisor" if supervisors == 1 else f"{supervisors} supervisors" * bool(supervisors)
    return (
        f"{count(len(chosen.workers), 'worker')}{place} {'takes' if one else 'take'} no more tasks "
        f"and {'ends' if one else 'end'}{theirs}; nobody starts {'another' if one else 'others'}."
    )


def _what_runs(running: int) -> str:
    if not running:
        return "Nothing runs there."
    verb = "runs" if running == 1 else "run"
    return (
        f"{count(running, 'task')} {verb} there: what does not end within QUEUE_DRAIN_TIMEOUT goes "
        "back to the line."
    )


def _beside(chosen: Chosen, lease: float) -> list[str]:
    silent = sum(not row.is_alive(lease) for row in chosen.workers)
    if not silent:
        return []
    gives = "gives" if silent == 1 else "give"
    return [f"{count(silent, 'worker')} {gives} no sign of life, and may not hear of it."]
