"""What comes in from outside (URLs, settings, command lines, notifications, rows) is taken, or
refused in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
import shop_tasks
from click.testing import CliRunner
from crew import Hire
from helpers import eventually
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastedgy.cli import main
from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.database import normalize_url
from fastedgy.database_url import parse_url
from fastedgy.errors import ConfigurationError
from fastedgy.ids import new_id
from fastedgy.store.claim import Lane
from fastedgy.store.gates import GateLane
from fastedgy.worker.counters import Counters
from fastedgy.worker.notifier import Notifier

quick = settings(max_examples=150, deadline=None)
text = st.text(max_size=40)
pieces = st.lists(
    st.sampled_from(["postgres", "://", ":", "@", "/", "?", "&", "=", "#", "%", "%41", "[", "]",
                     "::1", "localhost", "sslmode", "host", "port", "5432", "99999999", "ä", " ",
                     "..", ",", "user", "\x00", "\n"])
    | text, max_size=14,
).map("".join)  # fmt: skip


@quick
@given(pieces | pieces.map("postgresql://".__add__))
@example("postgresql://[::1")
@example("postgresql://a:b@h:1,h:2/x?target_session_attrs=any")
def test_a_url_is_understood_or_refused_in_one_sentence_without_its_password(url: str) -> None:
    refusal = ""
    try:
        once = normalize_url(url)
    except ConfigurationError as error:
        refusal = str(error)
    if refusal:
        assert "\n" not in refusal.strip()
        return
    assert normalize_url(once) == once
    assert str(parse_url(once))


variables = sorted(
    {
        name
        for kind in (QueuedTaskConfig, Settings)
        for name in map(kind.variable, kind.model_fields)
    }
)
values = st.sampled_from(
    ["0", "-1", "1e9", "1e999", "nan", "inf", "true", "no", "", " ", ",", "a,b", "[]", "{}", "null",
     "\u0661", "9" * 400, "😀"]
) | text.filter(lambda value: "\x00" not in value)  # fmt: skip


@quick
@given(st.dictionaries(st.sampled_from(variables), values, max_size=6))
def test_an_environment_makes_settings_or_is_refused_by_the_names_of_its_variables(
    environment: dict[str, str],
) -> None:
    environment = {
        name: value.encode("utf-8", "ignore").decode() for name, value in environment.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        for kind in (QueuedTaskConfig, Settings):
            refusal = ""
            try:
                kind()
            except ConfigurationError as error:
                refusal = str(error)
            assert not refusal or any(name in refusal for name in environment)


words = st.sampled_from(
    ["queue", "db", "serve", "schedule", "demo", "status", "list", "show", "retry", "cancel",
     "clear", "prune", "stats", "workers", "--json", "--help", "--app", "--limit", "--state", "-1",
     "0",
     "--queues", "--older-than", "--yes", "doing", "nope:app", "--port", "x" * 300, "é"]
) | st.text("ab-=:/\\\"' 0\u2603", max_size=8)  # fmt: skip
LONG_RUNNING = {"serve", "demo", "start", "watch", "restart", "stop", "shell"}


@settings(max_examples=60, deadline=None)
@given(st.lists(words, max_size=5).filter(lambda line: not LONG_RUNNING & set(line)))
def test_a_command_line_is_obeyed_or_refused_without_a_traceback(line: list[str]) -> None:
    nobody = "postgresql://nobody@127.0.0.1:1/nothing"
    result = CliRunner().invoke(main, line, env={"DATABASE_URL": nobody}, input="")
    assert result.exit_code in (0, 1, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), line
    assert "Traceback" not in result.output


json_value = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
payloads = text | st.fixed_dictionaries(
    {},
    optional={
        "lanes": json_value | st.lists(st.tuples(json_value, json_value), max_size=3),
        "due": json_value,
    },
).map(json.dumps)


@quick
@given(payloads)
@example('{"lanes": [["\\u0000", 1]], "due": null}')
@example('{"lanes": [["default", 99999999999]], "due": null}')
@example('{"lanes": [], "due": null, "gates": [["default", "x", 2147483648]]}')
@example('{"lanes": [["\\ud800", 1]], "due": 1e308}')
def test_whoever_notifies_on_our_channel_cannot_spoil_a_claim(payload: str) -> None:
    notifier = Notifier("postgresql://x", QueuedTaskConfig(), Counters())
    heard: list[Lane] = []
    notifier.on_lanes = heard.extend
    gates: list[GateLane] = []
    notifier.on_gates = gates.extend
    delays: list[float] = []
    notifier.on_due = delays.append

    notifier._rung(None, 0, "", payload)
    notifier._told(None, 0, "", payload)

    heard += [(queue + gate, priority) for queue, gate, priority in gates]
    for queue, priority in heard:
        queue.encode()
        assert "\x00" not in queue
        assert -(2**31) <= priority < 2**31
    assert all(isinstance(delay, float) for delay in delays)


COLUMNS: dict[str, Callable[[int], Any]] = {
    "function": lambda n: ["shop_tasks:greet", "a:b", "os:system", ":" * n, "☃", ""][n % 6],
    "args": lambda n: ["[]", '["x"]', "{}", "null", "[[[]]]", '"x"', "1e300", "[null]"][n % 8],
    "kwargs": lambda n: ["{}", '{"name": 1}', "[]", "null", '{"": ""}', '{"self": 1}', "7"][n % 7],
    "context": lambda n: ["{}", "[]", "null", '{"a": {"b": [1]}}', '"x"'][n % 5],
    "history": lambda n: ["[]", "{}", "null", '[{"run": "x"}]', "5"][n % 5],
    "priority": lambda n: [0, 2**31 - 1, -(2**31), 7][n % 4],
    "timeout": lambda n: [None, 0.0, -1.0, float("nan"), float("inf"), 1e-9][n % 6],
    "attempt": lambda n: [0, -5, 2**31 - 2][n % 3],
    "max_retries": lambda n: [0, -3, 2**31 - 1][n % 3],
    "run": lambda n: [0, 2**31 - 2, -9][n % 3],
    "name": lambda n: ["", "☃" * 50, "a\nb", "x" * 5_000][n % 4],
    "trace": lambda n: [None, "", "00-zz", "x" * 300][n % 4],
    "redact": lambda n: [None, [], ["0", "name", "-1", "☃"]][n % 3],
    "takes_results": lambda n: n % 2 == 0,
    "stands_for": lambda n: [None, None, new_id()][n % 3],
}  # fmt: skip


async def test_rows_of_nonsense_come_to_an_end_and_harm_no_neighbour(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    """Each column in turn runs through its list, in combinations that never repeat."""
    ids = []
    for number in range(140):
        row = {
            name: choose(number // (place + 1) if number % 3 else 0)
            for place, (name, choose) in enumerate(COLUMNS.items())
        }
        ids.append(id := new_id())
        marks = ", ".join(f"${place}" for place in range(2, len(row) + 2))
        await connection.execute(
            f"INSERT INTO queued_tasks (id, {', '.join(row)}) VALUES ($1, {marks})",
            id, *row.values(),
        )  # fmt: skip

    async with hire(retry_backoff=0.01, retry_backoff_max=0.02) as staff:

        async def settled() -> None:
            left = await connection.fetch(
                "SELECT state, function, args, kwargs, error_message, history FROM queued_tasks"
                " WHERE id = ANY ($1) AND state IN ('enqueued', 'doing')", ids,
            )  # fmt: skip
            assert not left, [dict(row) for row in left[:3]]

        await eventually(settled)
        assert await staff.tasks.add_task(shop_tasks.greet, "you").wait(30) == "hello you"
        assert staff.counters.errors == 0

    silent = await connection.fetch(
        "SELECT * FROM queued_tasks WHERE state = 'failed' AND error_message IS NULL"
    )
    assert not silent
    assert not re.search("Traceback", "".join(row["error_message"] or "" for row in silent))
