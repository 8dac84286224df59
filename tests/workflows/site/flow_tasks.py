"""Tasks that hang together."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fastedgy.dependencies import get_service
from fastedgy.errors import TaskFailed, TaskOutcomeError
from fastedgy.queued_task import get_current_task, task
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.workflows import chain, group

gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
"""Events between a test and its tasks, where both are in one process."""


def note(word: str) -> None:
    """Append a line to the ledger, if there is one: a word, and the run of the task."""
    me = get_current_task()
    if me is not None and (path := os.environ.get("LEDGER")):
        with Path(path).open("a") as lines:
            lines.write(f"{word} {me.run}\n")


@task
async def give(value: Any = None) -> Any:
    return value


@task
def give_sync(value: Any = None) -> Any:
    return value


@task
async def give_object() -> Any:
    return object()


@task
async def add(first: int, second: int = 1) -> int:
    return first + second


@task
async def total(numbers: list[int]) -> int:
    return sum(numbers)


@task(max_retries=0)
async def break_(why: str = "no such file", *ignored: Any) -> None:
    raise ValueError(why)


@dataclass
class Order:
    customer: str
    amounts: list[int]


class Parcel(BaseModel):
    weight: float


@task
async def order_sum(order: Order) -> str:
    return f"{order.customer}: {sum(order.amounts)}"


@task
async def weigh(parcels: list[Parcel]) -> float:
    return sum(parcel.weight for parcel in parcels)


@task(on_parent_failure="run", max_retries=0)
async def look_at(values: Any, other: Any = None) -> list[str]:
    """What each of the values is."""
    return [_said(value) for value in (values if isinstance(values, list) else [values])]


def _said(value: Any) -> str:
    if isinstance(value, TaskFailed):
        return f"failed: {value.error_type}: {value.error_message}"
    if isinstance(value, TaskOutcomeError):
        return type(value).__name__
    return repr(value)


@task(on_parent_failure="run", max_retries=0)
async def one_of(order: Order) -> str:
    return type(order).__name__


@task
async def wait_at(gate: str, value: Any = None) -> Any:
    await gates[gate].wait()
    return value


@task(max_retries=0)
async def hand_on(kind: str, *arguments: Any) -> Any:
    """Return a task in place of a result."""
    tasks = get_service(QueuedTasks)
    match kind:
        case "add":
            return tasks.add_task(add, *arguments)
        case "break":
            return tasks.add_task(break_, *arguments)
        case "give":
            return tasks.add_task(give, *arguments)
        case "wait":
            return tasks.add_task(wait_at, *arguments)
        case "deeper":
            return tasks.add_task(hand_on, *arguments)
        case "keyed":
            return tasks.task(unique_key="the one").add_task(give, *arguments)
        case "chain":
            return chain(tasks, (give, 1), add, add)
        case "join":
            return tasks.add_task(total, group(tasks, [(give, n) for n in arguments]))
        case "group":
            return group(tasks, [(give, n) for n in arguments])
        case "itself":
            me = get_current_task()
            assert me is not None
            return tasks.ref(me.id)
        case "own child":
            me = get_current_task()
            assert me is not None
            return tasks.add_task(give, parent=me.id)
        case _:
            return tasks.ref(kind)


@task(max_retries=1)
async def fail_once(value: Any = None, *ignored: Any) -> Any:
    """Fail in the first budget, succeed after a retry by hand."""
    me = get_current_task()
    assert me is not None
    if me.run <= 2:
        raise ValueError(f"not in run {me.run}")
    return value


# For processes that are killed.


async def note_and_be_killed(word: str) -> None:
    """Note a word. The first run then waits for the kill, so that nothing hangs on its moment."""
    note(word)
    me = get_current_task()
    if me is not None and me.run == 1:
        await asyncio.sleep(600)


@task
async def collect(name: str) -> dict[str, Any]:
    note("collect")
    return {"name": name, "rows": [1, 2, 3]}


@task
async def render(data: dict[str, Any]) -> str:
    await note_and_be_killed("render")
    return f"{data['name']}: {len(data['rows'])} rows"


@task
async def deliver(text: str, to: str) -> str:
    note("deliver")
    return f"{text} to {to}"


@task
async def part(number: int) -> int:
    if number == 3:
        await note_and_be_killed(f"part-{number}")
    await asyncio.sleep(0.1)
    return number * number


@task(on_parent_failure="run")
async def summary(parts: list[Any]) -> dict[str, int]:
    note("summary")
    failed = sum(isinstance(each, TaskFailed) for each in parts)
    return {"successful": len(parts) - failed, "failed": failed}


@task(max_retries=0)
async def part_or_not(number: int) -> int:
    await asyncio.sleep(0.05)
    if number % 5 == 0:
        raise ValueError("every fifth")
    return number


@task
async def decide(amount: int) -> Any:
    """A conditional flow: which way it goes depends on what it finds."""
    note("decide")
    tasks = get_service(QueuedTasks)
    await asyncio.sleep(0.1)
    if amount > 100:
        return tasks.add_task(slow_way, amount)
    return tasks.add_task(quick_way, amount)


@task
async def slow_way(amount: int) -> str:
    await note_and_be_killed("slow")
    return f"{amount} the slow way"


@task
async def quick_way(amount: int) -> str:
    return f"{amount} the quick way"
