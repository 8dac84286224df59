"""What the workers under test are given to do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from fastedgy.dependencies import Inject, get_service
from fastedgy.queued_task import (
    Discard,
    Retry,
    Snooze,
    get_context,
    get_current_task,
    getLogger,
    set_context,
    task,
)
from fastedgy.queued_tasks import QueuedTasks

logger = getLogger("shop")
gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
"""Events between a test and its tasks, where both are in one process."""
seen: list[Any] = []
"""What tasks tell a test in the same process."""
leak: ContextVar[str] = ContextVar("leak", default="clean")


def add_in_own_loop(number: int) -> str:
    async def add() -> str:
        ref = await get_service(QueuedTasks).add_task(echo, number)
        return await ref.get_state()

    return asyncio.run(add())


async def adds_orphan_and_gives_up() -> None:
    tasks = get_service(QueuedTasks)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.0):
            await tasks.add_task(echo, "orphan", parent=UUID(int=1))
    tasks.add_task(echo, "beside")


async def adds(number: int) -> None:
    await get_service(QueuedTasks).add_task(echo, number)


def greet(name: str) -> str:
    return f"hello {name}"


async def greet_async(name: str) -> str:
    await asyncio.sleep(0)
    return f"hello {name}"


def _private() -> None: ...


async def echo(value: Any = None) -> Any:
    return value


class Size(Enum):
    SMALL = "small"


@dataclass
class Parcel:
    weight: Decimal
    size: Size


async def typed(day: date, at: datetime, id: UUID, parcels: list[Parcel]) -> list[str]:
    return [type(each).__name__ for each in (day, at, id, parcels[0], parcels[0].weight)]


async def give(what: str) -> Any:
    """Return something that is hard to store."""
    match what:
        case "object":
            return object()
        case "nul":
            return "a\0b"
        case "nan":
            return float("nan")
        case "big":
            return "x" * 5_000_000
        case "surrogate":
            return "\ud800"
        case "deep":
            value: list[Any] = []
            for _ in range(100_000):
                value = [value]
            return value
        case "moment":
            return {"day": date(2030, 1, 2), "price": Decimal("1.50")}
    raise AssertionError(what)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Fatal(Exception):
    def __str__(self) -> str:
        raise SystemExit(5)

    __repr__ = __str__


class TooLate(Exception): ...


def _raise(what: str) -> None:
    match what:
        case "value error":
            raise ValueError("no such user")
        case "nul":
            raise ValueError("a\0b")
        case "surrogate":
            raise ValueError("\ud800")
        case "exit":
            sys.exit(7)
        case "interrupt":
            raise KeyboardInterrupt
        case "generator exit":
            raise GeneratorExit
        case "recursion":
            _raise(what)
        case "unprintable":
            raise Unprintable
        case "fatal text":
            raise Fatal
        case "stop iteration":
            next(iter(()))
        case "cancelled":
            raise asyncio.CancelledError
        case "long":
            raise ValueError("x" * 1_000_000)
        case "group":
            raise ExceptionGroup("several", [ValueError("one"), TypeError("two")])
        case "base":
            raise BaseException("very basic")
        case "memory":
            raise MemoryError


@task(max_retries=0)
async def fail(what: str) -> None:
    _raise(what)


@task(max_retries=0)
def fail_sync(what: str) -> None:
    _raise(what)


@task(max_retries=2, backoff=0.01)
async def third_time() -> int:
    run = get_current_task()
    assert run is not None
    logger.info("attempt %d", run.attempt)
    if run.attempt < 3:
        raise ValueError(f"attempt {run.attempt}")
    return run.attempt


@task(max_retries=1, backoff=[0.02])
async def never() -> None:
    raise ValueError("never")


@task(max_retries=5, backoff=0.01, no_retry_on=TooLate)
async def too_late() -> None:
    raise TooLate


@task(max_retries=5, backoff=0.01, retry_on=ConnectionError)
async def only_connections(kind: str) -> None:
    raise {"connection": ConnectionError, "value": ValueError}[kind]


def _crooked(attempt: int) -> float:
    raise ZeroDivisionError


@task(max_retries=1, backoff=_crooked)
async def crooked_backoff() -> None:
    raise ValueError


@task(max_retries=3)
async def control(word: str, by: str) -> Any:
    """Say something about its own end the first time, by raising or returning it."""
    times = get_context("times", 0) + 1
    set_context("times", times)
    if times > 1:
        return times
    made = {
        "retry": Retry(after=0.01),
        "discard": Discard("not worth it"),
        "odd discard": Discard(5),  # type: ignore[arg-type]
        "snooze": Snooze(0.01),
    }[word]
    if by == "raise":
        raise made
    return made


@task(max_retries=1)
async def retry_with_cause() -> None:
    try:
        raise KeyError("the cause")
    except KeyError:
        raise Retry(after=0.01) from None


async def hold(name: str = "hold") -> str:
    """Wait for the test."""
    seen.append((name, "began"))
    await gates[name].wait()
    return name


@task(timeout=0.2, max_retries=0)
async def too_long(how: str = "sleep") -> str:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        seen.append("cancelled")
        if how == "swallow":
            return "swallowed"
        if how == "other":
            raise ValueError("on the way out") from None
        raise
    return "never"


@task(max_retries=0)
async def stubborn(how: str = "swallow") -> str:
    """Make something of a cancellation."""
    seen.append("began")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        if how == "other":
            raise ValueError("on the way out") from None
        if how == "swallow":
            return "swallowed"
        raise
    return "never"


async def nap(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "rested"


def nap_sync(seconds: float) -> str:
    time.sleep(seconds)
    return "rested"


@task(timeout=0.3, max_retries=1, backoff=0.01)
def stuck_once() -> str:
    run = get_current_task()
    assert run is not None
    if run.attempt == 1:
        time.sleep(60)
    return "second time"


async def block(seconds: float) -> None:
    """Block the event loop."""
    time.sleep(seconds)


@task(timeout=0.5, max_retries=1, backoff=60)
async def block_in_a_child(seconds: float) -> None:
    """Block the event loop in an asyncio task that is not the task's own."""
    await asyncio.gather(block(seconds))


async def nap_in_default_thread(seconds: float) -> None:
    await asyncio.to_thread(time.sleep, seconds)


async def talk(lines: int) -> None:
    for number in range(lines):
        logger.info("line %d", number)
        set_context("line", number)


def talk_sync(lines: int) -> None:
    for number in range(lines):
        logger.info("line %d", number, extra={"number": number})
        set_context("line", number)


async def many_steps(steps: int, seconds: float) -> None:
    for number in range(steps):
        set_context("progress.step", number)
        if number % 200 == 0:
            await asyncio.sleep(seconds * 200 / steps)


async def talk_odd() -> None:
    logger.info("a\0b %s", "\ud800")
    logger.log(25, "between the levels")
    logger.info("wrong %d", "argument")
    try:
        _raise("value error")
    except ValueError:
        logger.exception("caught")
    set_context("odd", ["\ud800".encode(errors="replace").decode(), 1])


async def spread(count: int) -> None:
    """Add tasks from inside a task."""
    tasks = get_service(QueuedTasks)
    tasks.add_tasks(greet, [(f"{number}",) for number in range(count)])


@task(max_retries=0)
async def spread_and_fail() -> None:
    get_service(QueuedTasks).add_task(greet, "dropped")
    raise ValueError


@task(max_retries=0)
async def spread_badly() -> None:
    get_service(QueuedTasks).add_task(greet, "x", parent=UUID(int=5))


def spread_sync(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
    tasks.add_task(greet, "from a thread")


async def ask_another(name: str, tasks: QueuedTasks = Inject(QueuedTasks)) -> str:
    answer: str = await tasks.add_task(greet, name).wait(timeout=30)
    return answer.upper()


class Mailer:
    def __init__(self) -> None:
        self.name = "the mailer"


async def injected(word: str, mailer: Mailer = Inject(Mailer)) -> str:
    return f"{word} by {mailer.name}"


def injected_sync(word: str, mailer: Mailer = Inject(Mailer)) -> str:
    return f"{word} by {mailer.name}"


async def whoami() -> dict[str, Any]:
    run = get_current_task()
    assert run is not None
    return {
        "id": str(run.id), "attempt": run.attempt, "queue": run.queue, "name": run.name,
        "pid": os.getpid(), "thread": threading.current_thread().name,
    }  # fmt: skip


async def leave_something() -> str:
    before = leak.get()
    leak.set("dirty")
    return before


async def mark(number: int) -> int:
    seen.append(number)
    return number


@task(max_retries=0)
def die(how: str) -> None:
    """Take the process along."""
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(9)


def plain_logging() -> None:
    logging.getLogger("plain").warning("not a row")


async def deaf() -> None:
    """Ignore every cancellation."""
    seen.append("began")
    while not gates["deaf"].is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await gates["deaf"].wait()


async def talk_and_hold() -> None:
    logger.info("about to wait")
    set_context("step", "waiting")
    await gates["talk"].wait()
    set_context("step", "over")


async def hold_and_talk() -> None:
    await gates["hold and talk"].wait()
    logger.info("last words")


@task(max_retries=0)
async def talk_and_fail() -> None:
    set_context("reached", 7, auto_commit=False)
    logger.info("last words")
    raise ValueError


@dataclass
class Torn:
    part: int = 0


async def tear_the_context() -> str:
    torn = Torn()
    del torn.part
    me = get_current_task()
    assert me is not None
    me.context["torn"] = torn
    return "done all the same"


async def mark_slowly(number: int) -> None:
    await asyncio.sleep(0.01)
    seen.append(number)


async def write_down(path: str, number: int) -> None:
    """Leave a trace that no transaction undoes."""
    await asyncio.sleep(0.01)
    with open(path, "a") as diary:
        diary.write(f"{number}\n")
