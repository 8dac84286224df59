"""Tasks with steps, waits, sagas, breakers and keys, which note what they do.

What they note goes to `noted` (a test in the same process), and to the file that LEDGER names, one
line per effect (a test of other processes). A process dies once at the point that a task is told.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from fastedgy.database import caller_transaction
from fastedgy.dependencies import Inject, get_service
from fastedgy.errors import SagaCompensated
from fastedgy.queued_task import Discard, Retry, get_current_task, task
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.workflows import (
    CircuitBreaker,
    CircuitOpen,
    Saga,
    idempotent,
    send_event,
    sleep,
    step,
    wait_for_event,
)

noted: list[str] = []
flows: dict[str, list[str]] = {}
"""The steps that `flow` makes, by name: its "release"."""
gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
faults: dict[str, int] = {}
"""How often the effects of these names fail before they come through."""


def note(what: str) -> str:
    noted.append(what)
    if "LEDGER" in os.environ:
        with Path(os.environ["LEDGER"]).open("a") as ledger:
            ledger.write(what + "\n")
    return what


def die_once(point: str) -> None:
    """End this process, the first time that a task comes by."""
    marker = Path(os.environ["LEDGER"] + f".{point.replace('/', '_')}")
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # it takes a moment


class Declined(Exception):
    """The card was refused."""


@task
async def effect(name: str) -> str:
    note(name)
    if faults.get(name, 0) > 0:
        faults[name] -= 1
        raise Declined(f"{name} was refused")
    return f"did {name}"


async def effect_then_die(name: str) -> str:
    note(name)
    die_once(name)
    return f"did {name}"


def slow_effect(name: str) -> str:
    time.sleep(0.01)
    return note(name)


@task(max_retries=3, backoff=0.01)
async def flow(name: str, stop_after: int) -> list[str]:
    """Make the steps of `flows[name]`; the first run ends after some of them."""
    results = []
    for number, each in enumerate(flows[name], 1):
        if each == "sleep":
            await sleep(0.01, name="nap")
        else:
            results.append(await step(each, effect, each))
        if number == stop_after and get_current_task().run == 1:
            raise Retry(after=0.05)
    return results


@dataclass
class Receipt:
    number: int
    day: date


async def make_receipt(number: int) -> Receipt:
    note("receipt")
    return Receipt(number, date(2026, 11, 21))


@task(max_retries=1, backoff=0.01)
async def rebuilt() -> list[str]:
    receipt = await step("receipt", make_receipt, 7)
    note(type(receipt).__name__ + type(receipt.day).__name__)
    if get_current_task().run == 1:
        raise Retry
    return [type(receipt).__name__, str(receipt.number), receipt.day.isoformat()]


@task(max_retries=1, backoff=0.01)
async def in_a_thread() -> str:
    return await step("slow", slow_effect, "slow")


@task(max_retries=2, backoff=0.01)
async def handled_failure() -> str:
    try:
        await step("charge", effect, "charge")
        paid = "card"
    except Declined as error:
        paid = f"invoice after {error}"
    await step("book", effect, "book")
    if get_current_task().run == 1:
        raise Retry
    return paid


@task(max_retries=2, backoff=0.01)
async def twice_the_same() -> None:
    await step("one", effect, "one")
    await step("one", effect, "one")


@task(max_retries=2, backoff=0.01)
async def nested() -> None:
    async def outer() -> None:
        await step("inner", effect, "inner")

    await step("outer", outer)


@task(max_retries=2, backoff=0.01)
def sync_with_steps() -> None:
    step("one", effect, "one")


@task(max_retries=2, backoff=0.01)
def sync_with_loop() -> None:
    asyncio.run(send_event("from a thread"))


class Unknown:
    """What JSON does not know."""


def return_unknown() -> Any:
    note("unknown")
    return Unknown()


def return_large() -> str:
    note("large")
    return "x" * 2_000


@task(max_retries=2, backoff=0.01)
async def unstorable(large: bool) -> None:
    await step("odd", return_large if large else return_unknown)


@task(max_retries=3, backoff=0.01)
async def adding() -> str:
    await step("add", _add_one)
    if get_current_task().run == 1:
        raise Retry(after=0.05)
    return "added"


async def _add_one(tasks: QueuedTasks = Inject(QueuedTasks)) -> str:
    return str(tasks.add_task(effect, "child").id)


@task(max_retries=0)
async def in_transaction() -> None:
    async with get_service(QueuedTasks).transaction():
        await step("one", effect, "one")


@task(max_retries=1, backoff=0.01)
async def side_by_side() -> list[str]:
    results = await asyncio.gather(*(step(f"part {n}", effect, f"part {n}") for n in range(5)))
    if get_current_task().run == 1:
        raise Retry
    return results


@task(max_retries=0)
async def taken_over() -> None:
    await step("before", effect, "before")
    note("ready")
    await gates["go on"].wait()
    await step("after", effect, "after")


@task(max_retries=0)
async def stubborn_step() -> str:
    return await step("thread", _wait_in_thread)


def _wait_in_thread() -> str:
    note("started")
    time.sleep(0.4)
    return note("finished")


# Waits.


@task(max_retries=0)
async def napping(seconds: float) -> list[str]:
    run = get_current_task()
    note(f"run {run.run}, attempt {run.attempt}")
    await sleep(seconds)
    note("awake")
    await sleep(seconds)
    return await step("after", _list)


async def _list() -> list[str]:
    return ["rested"]


@task(max_retries=0)
async def swallowing() -> str:
    try:
        await sleep(0.2)
    except asyncio.CancelledError:
        note("swallowed")
        return "never slept"
    return "slept"


@task(max_retries=0)
async def waiting(key: str, timeout: float | None = None) -> Any:
    try:
        found = await wait_for_event(key, timeout=timeout)
    except TimeoutError as error:
        note("timeout")
        await sleep(0.2)
        return str(error)
    await sleep(0.01)
    return found


@task(max_retries=0)
async def both(key: str) -> list[Any]:
    return await asyncio.gather(wait_for_event(key), step("long", _long), sleep(0.3))


async def _long() -> str:
    note("long")
    await asyncio.sleep(0.15)
    return note("long done")


@task(max_retries=0)
async def sender(key: str) -> bool:
    return await send_event(key, {"by": "task"})


@task(max_retries=0)
async def sent_just_before_it_ends(key: str) -> Any:
    """The event comes between the wait's row and the end of the run."""

    async def send() -> None:
        await asyncio.sleep(0.02)
        await send_event(key, "just in time")

    sending = asyncio.create_task(send())
    found = await wait_for_event(key)
    await sending
    return found


@task(max_retries=0)
async def rolled_back(key: str, commit: bool) -> None:
    tasks = get_service(QueuedTasks)
    try:
        async with tasks.transaction():
            await send_event(key, "from a transaction")
            async with caller_transaction(tasks._database) as connection:
                assert connection is not None
            if not commit:
                raise Declined
    except Declined:
        note("rolled back")


# Sagas.


async def undo(name: str) -> None:
    note(f"undo {name}")
    if faults.get(f"undo {name}", 0) > 0:
        faults[f"undo {name}"] -= 1
        raise ConnectionError(f"no way to undo {name}")


async def undo_then_die(name: str) -> None:
    note(f"undo {name}")
    die_once(f"undo-{name}")


@task(max_retries=2, backoff=0.01)
async def order(fails_at: str | None = None, retries: int = 0, undo_retries: int = 2) -> None:
    if fails_at is not None:
        faults.setdefault(fails_at, 1)
    async with Saga(
        "order", step_retries=retries, compensation_retries=undo_retries, backoff=0.02
    ) as saga:
        await saga.step("reserve", effect, "reserve", compensate=(undo, "reserve"))
        await saga.step("charge", effect, "charge", compensate=(undo, Saga.RESULT))
        await saga.step("log", effect, "log")
        await saga.step("ship", effect, "ship", compensate=(undo, "ship"))


@task(max_retries=0)
async def kept() -> str:
    try:
        async with Saga("order") as saga:
            await saga.step("reserve", effect, "reserve", compensate=(undo, "reserve"))
            raise ValueError("no stock")
    except SagaCompensated as error:
        return f"apologised for {error.result['error']}"
    return "fine"


@task(max_retries=0, timeout=2.0)
async def too_slow() -> None:
    async with Saga("slow") as saga:
        await saga.step("reserve", effect, "reserve", compensate=(undo, "reserve"))
        await saga.step("hang", asyncio.sleep, 30, compensate=(undo, "hang"))


@task(max_retries=0)
async def beside(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
    async with Saga("beside") as saga:
        tasks.add_task(effect, "receipt")
        await asyncio.gather(
            saga.step("fail", _fail_soon),
            saga.step("slow", _slow, compensate=(undo, "slow")),
        )


async def _fail_soon() -> None:
    raise Declined("at once")


async def _slow() -> None:
    await asyncio.sleep(0.1)
    note("slow")


@task(max_retries=1, backoff=0.01)
async def retried_saga() -> str:
    async with Saga("retried") as saga:
        await saga.step("reserve", effect, "reserve", compensate=(undo, "reserve"))
        if get_current_task().run == 1:
            raise Retry
    return "went through"


@task(max_retries=0)
async def slow_retries() -> None:
    async with Saga("slow", step_retries=1, backoff=60) as saga:
        await saga.step("reserve", effect, "reserve")
        await saga.step("charge", effect, "charge")


@task(max_retries=0)
async def odd_compensation() -> None:
    async with Saga("odd") as saga:
        await saga.step("one", effect, "one", compensate=(undo, "one"))
        await saga.step("two", effect, "two", compensate=("not", "callable"))


@task(max_retries=0)
async def hopeless() -> None:
    async with Saga("hopeless", step_retries=5, backoff=60) as saga:
        await saga.step("reserve", effect, "reserve", compensate=(undo, "reserve"))
        await saga.step("charge", _never)


async def _never() -> None:
    raise Discard("the card was stolen")


# Keys.


@task(max_retries=1, backoff=0.01)
async def once(key: str, value: str) -> str:
    return await idempotent(key, _pay, value)


@task
async def once_twice(key: str) -> list[str]:
    return list(await asyncio.gather(*(idempotent(key, _pay, "x") for _ in range(2))))


async def _pay(value: str) -> str:
    note(f"pay {value}")
    await asyncio.sleep(0.05)
    if faults.get("pay", 0) > 0:
        faults["pay"] -= 1
        raise Declined(value)
    return value


@task(max_retries=0)
async def once_unknown(key: str) -> None:
    await idempotent(key, return_unknown)


@task(max_retries=0)
async def once_adding(key: str) -> None:
    await idempotent(key, _add_one)
    raise ValueError("after that")


# Breakers.

shop = CircuitBreaker("shop", failure_threshold=2, reset_timeout=30, success_threshold=2)


@shop
async def ask_the_shop(fails: bool) -> str:
    note("asked")
    if fails:
        raise ConnectionError("the shop is closed")
    return "sold"


@task(max_retries=0)
async def buy(fails: bool) -> str:
    try:
        return await ask_the_shop(fails)
    except CircuitOpen as error:
        return f"open for {error.retry_after:.1f} s"


provider = CircuitBreaker("provider", failure_threshold=3, reset_timeout=0.4, success_threshold=2)


@task(max_retries=8, backoff=0.05, breaker="provider")
async def through_the_breaker(number: int, broken_until: float) -> str:
    """Fails until that time, and notes when it was at work. One probe dies with its process."""
    began = time.monotonic()
    await asyncio.sleep(0.02)
    ended = time.monotonic()
    note(f"{began} {ended}")
    if began < broken_until - 2:
        raise ConnectionError("the provider is away")
    if began < broken_until:
        die_once("probe")
        raise ConnectionError("the provider is still away")
    return "through"


@task(max_retries=0, breaker="guarded")
async def behind_a_guard(fails: bool = False, hangs: bool = False) -> str:
    note("called")
    if fails:
        raise ConnectionError("no")
    if hangs:
        await asyncio.sleep(30)
    return "yes"


@task(max_retries=0, breaker="guarded")
def sync_behind_a_guard(fails: bool = False) -> str:
    note("called")
    if fails:
        raise ConnectionError("no")
    return "yes"


# What is killed in the middle.


@task(max_retries=0)
async def killed_in_steps() -> list[str]:
    results = [await step("one", effect, "steps one")]
    results.append(await step("two", effect_then_die, "steps two"))
    die_once("between")
    results.append(await step("three", effect, "steps three"))
    return results


@task(max_retries=0)
async def killed_asleep() -> str:
    await step("before", effect, "asleep before")
    await sleep(1.0)
    die_once("awake")
    return await step("after", effect, "asleep after")


@task(max_retries=0)
async def killed_waiting(key: str) -> Any:
    found = await wait_for_event(key)
    die_once("heard")
    await step("after", effect, f"waiting after {found}")
    return found


@task(max_retries=0)
async def killed_paying(key: str) -> str:
    return await idempotent(key, effect_then_die, "paying")


@task(max_retries=0)
async def killed_order(name: str, fails: bool) -> None:
    async with Saga(name) as saga:
        await saga.step("reserve", effect, f"{name} reserve", compensate=(undo, f"{name} reserve"))
        await saga.step(
            "charge", effect_then_die, f"{name} charge",
            compensate=(undo_then_die, f"{name} charge"),
        )  # fmt: skip
        if fails:
            await saga.step("ship", _fail_soon)
        await saga.step("ship anyway", effect, f"{name} ship")
