"""The engine's statements find their rows by an index, however many finished rows there are."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
from helpers import create_database, drop_database, execute, run
from rows import WORKER

from fastedgy.database import connect
from fastedgy.models.tables import Tables
from fastedgy.store import (
    bulk,
    claim,
    events,
    family,
    finish,
    gates,
    keys,
    maintain,
    queues,
    recovery,
    returned,
    standing,
    steps,
    traces,
    unique,
    watch,
    workers,
)
from fastedgy.store.statements import Statement
from fastedgy.worker.wire import HELD_PLANS

TABLES = Tables()
TASKS_KEY = "queued_tasks_pkey"
GATES_KEY = "queued_task_gates_pkey"
WORKERS_KEY = "queued_task_workers_pkey"

FILL = """
INSERT INTO queued_tasks (id, name, function, state, date_enqueued, date_started, date_ended,
                          worker_id, date_due, waiting_on, queue, priority)
SELECT gen_random_uuid(), 'shop.send', 'shop:send', state.word,
       CASE WHEN state.word <> 'scheduled' THEN now() - number * interval '1 s' END,
       CASE WHEN state.word IN ('doing', 'done', 'failed', 'cancelled') THEN now() END,
       CASE WHEN state.word IN ('done', 'failed', 'cancelled') THEN now() END,
       CASE WHEN state.word IN ('doing', 'done', 'failed') THEN gen_random_uuid() END,
       CASE WHEN state.word = 'scheduled' THEN now() + number * interval '1 s' END,
       (state.word = 'waiting')::integer,
       'queue ' || number % 3, number % 2
  FROM (VALUES ('done', 40000), ('failed', 500), ('cancelled', 500), ('enqueued', 300),
               ('doing', 300), ('scheduled', 300), ('waiting', 300)) AS state (word, rows),
       generate_series(1, state.rows) AS number
"""
GATED = """
INSERT INTO queued_tasks (id, name, function, state, date_started, worker_id, gate, gate_limit,
                          queue)
SELECT gen_random_uuid(), 'shop.bill', 'shop:bill', state.word,
       CASE WHEN state.word = 'doing' THEN now() END,
       CASE WHEN state.word = 'doing' THEN gen_random_uuid() END,
       'customer ' || number % 20, 100, 'queue ' || number % 3
  FROM (VALUES ('enqueued', 300), ('doing', 300)) AS state (word, rows),
       generate_series(1, state.rows) AS number
"""
LINKS = """
INSERT INTO queued_task_links (parent_id, child_id, settled)
SELECT gen_random_uuid(), gen_random_uuid(), number % 100 <> 0
  FROM generate_series(1, 20000) AS number
"""
LOGS = """
INSERT INTO queued_task_logs (logged_at, task_id, run, seq, level, logger, message)
SELECT now(), gen_random_uuid(), 1, 1, 'info', 'shop', 'hello'
  FROM generate_series(1, 20000)
"""
WORKERS = """
INSERT INTO queued_task_workers (id, server_name, pid, concurrency, version, state, date_ended)
SELECT gen_random_uuid(), 'here', number, 1, '1', CASE WHEN number < 20 THEN 'running'
       ELSE 'stopped' END, now()
  FROM generate_series(1, 2000) AS number
"""


@pytest.fixture(scope="module")
def much_used(server_url: str, template: str) -> Iterator[str]:
    """A database with many finished tasks and a few of every other kind."""
    url = create_database(server_url, template)
    run(execute(url, FILL, GATED, LINKS, LOGS, WORKERS, "VACUUM ANALYZE"))
    yield url
    drop_database(server_url, url)


@pytest.fixture
async def held(much_used: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection with the settings of the worker's own."""
    connection = await connect(much_used, server_settings=HELD_PLANS)
    yield connection
    await connection.close()


async def plan_of(connection: asyncpg.Connection, text: str) -> list[dict[str, Any]]:
    """The nodes of the plan that a statement gets whatever its parameters are."""
    highest = max((int(number) for number in re.findall(r"\$(\d+)", text)), default=0)
    values = f"({', '.join(['NULL'] * highest)})" if highest else ""
    await connection.execute(f"PREPARE examined AS {text}")
    try:
        answer = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE examined{values}")
    finally:
        await connection.execute("DEALLOCATE examined")
    return list(nodes(json.loads(answer)[0]["Plan"]))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


EXPECTED = {
    claim.CLAIM: {"queued_tasks_ready", TASKS_KEY},
    claim.CLAIM_ALONE: {"queued_tasks_suspect", TASKS_KEY},
    claim.LANES: {"queued_tasks_ready"},
    returned.FINISH_DONE: {TASKS_KEY},
    returned.FINISH_DONE_SAYING: {TASKS_KEY},
    returned.FINISH_PARENTS: {TASKS_KEY},
    returned.FINISH_AND_RELEASE: {
        TASKS_KEY, "queued_tasks_standing", "queued_task_links_pkey",
    },
    finish.FINISH_ANY: {TASKS_KEY},
    finish.CANCEL_REQUESTED: {TASKS_KEY},
    finish.REMOVE: {
        TASKS_KEY, "queued_task_logs_pkey", "queued_task_links_child", "queued_task_steps_pkey",
    },
    finish.RUNS: {TASKS_KEY},
    family.SETTLE: {TASKS_KEY, "queued_task_links_pkey"},
    family.PASS_ON: {TASKS_KEY},
    family.DOOM: {TASKS_KEY, "queued_task_links_pkey"},
    standing.LOCK_ALL: {TASKS_KEY},
    standing.MARK_OTHERS: {TASKS_KEY},
    standing.CIRCLES: {TASKS_KEY, "queued_task_links_child"},
    standing.STAND: {TASKS_KEY},
    watch.RESULTS: {TASKS_KEY},
    watch.PLAIN_RESULTS: {TASKS_KEY},
    traces.APPEND_LOGS: {TASKS_KEY},
    traces.WRITE_CONTEXTS: {TASKS_KEY},
    gates.HEADS: {"queued_tasks_gated", "queued_tasks_gate_taken", GATES_KEY},
    gates.SUSPECTS: {"queued_tasks_suspect", "queued_tasks_gate_taken", GATES_KEY},
    gates.CLAIM_GATED: {"queued_tasks_gated", TASKS_KEY},
    gates.CLAIM_FREELY: {
        "queued_tasks_gated", "queued_tasks_gate_taken", GATES_KEY, TASKS_KEY,
    },
    gates.CLAIM_SUSPECT: {"queued_tasks_suspect", TASKS_KEY},
    gates.FIND_LANES: {"queued_tasks_gated"},
    gates.SPEND: set(),
    queues.COUNTED: {"queued_tasks_doing", "queued_task_queues_pkey"},
    queues.SPEND: {"queued_task_queues_pkey"},
    unique.HOLDERS: {"queued_tasks_unique_key", "queued_task_steps_pkey"},
    unique.TAKE_OVER: {"queued_tasks_unique_key", "queued_task_steps_pkey"},
    unique.REPLACE: {"queued_tasks_unique_key", "queued_task_steps_pkey"},
    maintain.PROMOTE: {"queued_tasks_scheduled", TASKS_KEY},
    events.WAKE_TASKS: {TASKS_KEY, "queued_task_steps_pkey", "queued_task_events_pkey"},
    events.WAKE_FOR: {TASKS_KEY, "queued_task_steps_event", "queued_task_events_pkey"},
    events.WAKE_RECENT: {TASKS_KEY, "queued_task_steps_event", "queued_task_events_sent"},
    steps.LOAD: {"queued_task_steps_pkey"},
    steps.BEGIN: {TASKS_KEY, "queued_task_steps_pkey"},
    steps.END: {TASKS_KEY, "queued_task_steps_pkey"},
    keys.TAKE: {TASKS_KEY},
    keys.FILL: {"queued_task_keys_pkey"},
    maintain.PRUNE: {
        TASKS_KEY, "queued_task_logs_pkey", "queued_task_links_child", "queued_task_links_pkey",
        "queued_task_steps_pkey", "queued_task_keys_pkey",
    },
    bulk.DELETE: {
        TASKS_KEY, "queued_task_logs_pkey", "queued_task_links_child", "queued_task_links_pkey",
        "queued_task_steps_pkey", "queued_task_keys_pkey",
    },
    bulk.MOVE: {TASKS_KEY},
    bulk.REPRIORITISE: {TASKS_KEY},
    bulk.RESTORE: {TASKS_KEY, "queued_task_links_child"},
    bulk.DUES: {TASKS_KEY},
    bulk.LATER: {TASKS_KEY},
    workers.BEAT: {
        WORKERS_KEY, "queued_task_workers_alive", TASKS_KEY, "queued_tasks_suspect",
        "queued_tasks_scheduled", "queued_task_queues_pkey",
    },
    workers.RETIRE: {WORKERS_KEY},
    recovery.STALE: {"queued_task_workers_alive"},
    recovery.MARK_LOST: {WORKERS_KEY},
    recovery.TAKE_BACK: {"queued_tasks_doing", TASKS_KEY},
    recovery.ORPHANS: {"queued_tasks_doing", WORKERS_KEY},
}  # fmt: skip
NAMES = {
    id(value): name
    for module in (
        bulk,
        claim,
        family,
        finish,
        gates,
        maintain,
        queues,
        recovery,
        returned,
        standing,
        traces,
        unique,
        watch,
        workers,
        events,
        keys,
        steps,
    )
    for name, value in vars(module).items()
}


@pytest.mark.parametrize("statement", EXPECTED, ids=lambda statement: NAMES[id(statement)])
async def test_a_statement_of_the_engine_uses_its_indexes_only(
    held: asyncpg.Connection, statement: Statement
) -> None:
    plan = await plan_of(held, statement[TABLES])

    used = {node["Index Name"] for node in plan if "Index Name" in node}
    assert used == EXPECTED[statement]
    assert {node["Node Type"] for node in plan if "Scan" in node["Node Type"]} <= {
        "Index Scan", "Index Only Scan", "CTE Scan", "Function Scan", "Subquery Scan",
        "WorkTable Scan",
    }  # fmt: skip


EVERY_BATCH = [
    returned.FINISH_DONE, returned.FINISH_DONE_SAYING, returned.FINISH_PARENTS,
    returned.FINISH_AND_RELEASE, finish.FINISH_ANY, family.SETTLE, family.DOOM,
    traces.APPEND_LOGS, traces.WRITE_CONTEXTS, events.WAKE_TASKS,
]  # fmt: skip
"""What workers write with their outcomes."""


@pytest.fixture(scope="module", params=["new", "analyzed"])
def little_used(request: pytest.FixtureRequest, server_url: str, template: str) -> Iterator[str]:
    """A database with nothing in it."""
    url = create_database(server_url, template)
    if request.param == "analyzed":
        run(execute(url, "ANALYZE"))
    yield url
    drop_database(server_url, url)


@pytest.mark.parametrize("statement", EVERY_BATCH, ids=lambda statement: NAMES[id(statement)])
async def test_a_plan_that_was_made_while_there_was_little_walks_over_no_table(
    little_used: str, statement: Statement
) -> None:
    """It is held while there comes to be much."""
    connection = await connect(little_used, server_settings=HELD_PLANS)
    try:
        plan = await plan_of(connection, statement[TABLES])
    finally:
        await connection.close()
    keys = [node for node in plan if node.get("Index Name", "").endswith("_pkey")]
    assert keys
    assert [node["Index Name"] for node in keys if "Index Cond" not in node] == []


@pytest.mark.parametrize("statement", [claim.CLAIM, claim.LANES], ids=["CLAIM", "LANES"])
async def test_looking_for_work_reads_few_pages_of_many(
    held: asyncpg.Connection, statement: Statement
) -> None:
    """The costs of a plan are guesses; the pages that are read are not."""
    values = ""
    if statement is claim.CLAIM:
        values = (
            f"('{WORKER}', '{{queue 0,queue 1,queue 2}}', '{{1,0,1}}',"
            " '{1970-01-01,1970-01-01,1970-01-01}', 10)"
        )
    whole: int = await held.fetchval("SELECT pg_relation_size('queued_tasks') / 8192")
    trial = held.transaction()
    await trial.start()
    await held.execute(f"PREPARE examined AS {statement[TABLES]}")
    answer = await held.fetchval(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE examined{values}"
    )
    await trial.rollback()
    await held.execute("DEALLOCATE examined")

    top = json.loads(answer)[0]["Plan"]
    assert top["Actual Rows"] > 0
    assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < min(whole / 2, 500)
