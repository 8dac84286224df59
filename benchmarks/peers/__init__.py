"""The other Postgres queues for Python: which they are, and what their environments need.

How each is used stands in its driver: `drivers/drive_NAME.py`, a script that runs in the peer's own
virtual environment and imports only the peer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DRIVERS = Path(__file__).resolve().parent / "drivers"


@dataclass(frozen=True, slots=True)
class PeerPackage:
    """What pip installs for a peer; its oldest Python."""

    name: str
    title: str
    requirements: tuple[str, ...]
    python: tuple[int, int] = (3, 11)

    @property
    def driver(self) -> Path:
        """The script that speaks for it."""
        return DRIVERS / f"drive_{self.name}.py"


PSYCOPG = "psycopg[binary,pool]"
PEERS = {
    peer.name: peer
    for peer in (
        PeerPackage("pgqueuer", "PgQueuer", ("pgqueuer", "asyncpg")),
        PeerPackage("awa", "Awa", ("awa-pg",)),
        PeerPackage("oban", "Oban", ("oban", PSYCOPG), python=(3, 12)),
        PeerPackage("chancy", "Chancy", ("chancy", PSYCOPG)),
        PeerPackage("taskiq", "Taskiq", ("taskiq", "taskiq-postgres", "asyncpg")),
        PeerPackage("saq", "SAQ", ("saq[postgres]", PSYCOPG)),
        PeerPackage("procrastinate", "Procrastinate", ("procrastinate", PSYCOPG)),
    )
}
