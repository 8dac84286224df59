"""An application whose web process is killed while its durable tasks run."""

from __future__ import annotations

import asyncio
import os

from fastedgy.app import FastEdgy
from fastedgy.queued_task import task
from fastedgy.tasks import Tasks

app = FastEdgy()


def note(what: str, number: int) -> None:
    """One line of a file, in one write: what is in it was done, whoever was killed when."""
    line = f"{what} {number} {os.getpid()}\n".encode()
    journal = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(journal, line)
    finally:
        os.close(journal)


@task
async def work(number: int) -> int:
    note("began", number)
    if "HOLDS" in os.environ and number % 10:
        await asyncio.Event().wait()
    note("ended", number)
    return number


@task
def work_in_thread(number: int) -> int:
    note("began", number)
    note("ended", number)
    return number


async def plain(number: int) -> None:
    note("plain", number)
    await asyncio.Event().wait()


@app.post("/orders/{number}")
async def order(number: int, tasks: Tasks) -> int:
    at = (tasks, tasks.after_route, tasks.after_response)[number % 3]
    at.task(durable=True, shield=number % 2 == 0).schedule(work, number)
    tasks.after_response.schedule(plain, number)
    return number


@app.post("/threads/{number}")
async def thread(number: int, tasks: Tasks) -> int:
    tasks.task(durable=True).schedule(work_in_thread, number)
    return number
