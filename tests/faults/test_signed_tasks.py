"""With QUEUE_SIGNING_KEYS, a row runs only if somebody with a key made it, and as it was made."""

from __future__ import annotations

import json
import math
from typing import Any

import asyncpg
import pytest
import shop_tasks
from crew import Hire
from helpers import eventually
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows import add, change, read

from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.connections import Connections
from fastedgy.errors import SignatureRefused
from fastedgy.ids import new_id
from fastedgy.queued_task.encoding import dumps
from fastedgy.queued_task.signing import sign, verify
from fastedgy.queued_tasks import QueuedTasks

KEYS = ["first", "second"]


def producer(url: str, *keys: str) -> QueuedTasks:
    config = QueuedTaskConfig(signing_keys=list(keys))
    return QueuedTasks(Connections(url, Settings(database_url=url), config), config)


async def failed_as(connection: asyncpg.Connection, id: Any, kind: str) -> None:
    async def check() -> None:
        row = await read(connection, id)
        assert (row["state"], row["error_type"]) == ("failed", kind), row["error_message"]

    await eventually(check)


async def test_signed_tasks_run_under_the_old_and_the_new_key(
    hire: Hire, database_url: str
) -> None:
    async with hire(signing_keys=KEYS) as staff:
        for key in KEYS:
            elsewhere = producer(database_url, key)
            async with elsewhere:
                ref = elsewhere.add_task(shop_tasks.greet, "you")
            await elsewhere.close()
            assert await staff.tasks.ref(ref.id).wait(30) == "hello you"


async def test_rows_that_are_not_signed_by_a_known_key_run_nothing(
    hire: Hire, connection: asyncpg.Connection, database_url: str
) -> None:
    unsigned = await add(connection, function="shop_tasks:greet", args='["x"]')
    stranger = producer(database_url, "third")
    async with stranger:
        foreign = stranger.add_task(shop_tasks.greet, "x").id
    await stranger.close()

    async with hire(signing_keys=KEYS) as staff:
        await failed_as(connection, unsigned, "SignatureRefused")
        await failed_as(connection, foreign, "SignatureRefused")
        assert await staff.tasks.add_task(shop_tasks.greet, "you").wait(30) == "hello you"
        assert staff.counters.refused == 2


@pytest.mark.parametrize(
    "columns", [{"args": '["y"]'}, {"kwargs": '{"name": "y"}'}, {"function": "shop_tasks:echo"}]
)
async def test_a_signed_row_that_was_changed_runs_nothing(
    hire: Hire, connection: asyncpg.Connection, database_url: str, columns: dict[str, str]
) -> None:
    signing = producer(database_url, *KEYS)
    async with signing:
        id = signing.add_task(shop_tasks.greet, "x").id
    await signing.close()
    await change(connection, id, **columns)

    async with hire(signing_keys=KEYS):
        await failed_as(connection, id, "SignatureRefused")


async def test_a_signature_is_of_no_use_to_another_row(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    signature = sign(KEYS, new_id(), "shop_tasks:greet", '["x"]', "{}")
    copied = await add(connection, function="shop_tasks:greet", args='["x"]', signature=signature)
    async with hire(signing_keys=KEYS):
        await failed_as(connection, copied, "SignatureRefused")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text("aé\"\\☃", max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=2), inner),
    max_leaves=8,
)  # fmt: skip


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=st.lists(st.lists(json_values, max_size=3), min_size=1, max_size=20))
async def test_a_signature_survives_what_the_database_makes_of_the_arguments(
    connection: asyncpg.Connection, values: list[list[Any]]
) -> None:
    texts = [dumps(value) for value in values]
    rows = await connection.fetch("SELECT unnest($1::jsonb[])::text", texts)
    id = new_id()
    for text, row in zip(texts, rows, strict=True):
        verify(KEYS, sign(KEYS, id, "shop:f", text, "{}"), id, "shop:f", row[0], "{}")


@pytest.mark.parametrize(("one", "other"), [(1, 2), (1.5, 1), (math.pi, 3.14), ([1], [1, 1])])
def test_other_arguments_have_another_signature(one: Any, other: Any) -> None:
    id = new_id()
    signature = sign(KEYS, id, "shop:f", json.dumps([one]), "{}")
    with pytest.raises(SignatureRefused):
        verify(KEYS, signature, id, "shop:f", json.dumps([other]), "{}")
