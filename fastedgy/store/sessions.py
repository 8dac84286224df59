"""Who else uses the server."""

from __future__ import annotations

from asyncpg import Connection

_OTHERS = """
SELECT count(*) FROM pg_stat_activity
 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


async def count_others(connection: Connection) -> int:
    """How many connections of clients the server has besides this one, in all its databases."""
    number: int = await connection.fetchval(_OTHERS)
    return number
