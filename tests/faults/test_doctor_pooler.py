"""`doctor` over a pooler in transaction mode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from elsewhere import Pooler

from fastedgy.admin.doctor import doctor
from fastedgy.config import QueuedTaskConfig
from fastedgy.database import connect
from fastedgy.models.tables import Tables


async def codes(url: str, *, notify: bool = True) -> set[str]:
    """What doctor finds over this address."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[asyncpg.Connection]:
        connection = await connect(url, statement_cache_size=0)
        yield connection
        await connection.close()

    config = QueuedTaskConfig(use_postgresql_notify=notify)
    async with opened() as connection:
        found = await doctor(connection, Tables(), config, connect=opened)
    return {each.code for each in found}


async def test_a_pooler_in_transaction_mode_is_found_unless_the_queue_knows_of_it(
    pooler: Pooler, database_url: str
) -> None:
    assert "pooler" in await codes(pooler.url)
    assert "pooler" not in await codes(pooler.url, notify=False)
    assert "pooler" not in await codes(database_url)
