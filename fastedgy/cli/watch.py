"""`fastedgy queue watch`: the queue live in a terminal, with keys to look into it and to act."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live

from fastedgy.cli.context import CliContext, one_line, pass_cli_context
from fastedgy.cli.options import as_json
from fastedgy.cli.output import print_json, terminal
from fastedgy.cli.queue_ops import actor, explanation_lines
from fastedgy.cli.root import Command
from fastedgy.cli.task_page import task_page
from fastedgy.cli.watch_screen import (
    Frame,
    Item,
    counted,
    help_screen,
    overview_screen,
    screen,
    tasks_screen,
)
from fastedgy.errors import DatabaseError, FastEdgyError, TaskNotFound

if TYPE_CHECKING:
    from fastedgy.admin import QueueAdmin, TaskSummary

SHOWN = 30
"""Tasks of a list."""
_SEQUENCES = {
    b"\x1b[A": "up", b"\x1bOA": "up", b"\x1b[B": "down", b"\x1bOB": "down", b"\x1b": "back",
    b"\x7f": "back", b"\x08": "back", b"\r": "enter", b"\n": "enter", b"k": "up", b"j": "down",
    b"\x03": "q",
}  # fmt: skip


@click.command(cls=Command)
@click.option(
    "--interval", type=click.FloatRange(0.2, 60), default=1.0, show_default=True,
    help="Seconds between two looks.",
)  # fmt: skip
@as_json
@pass_cli_context
async def watch(context: CliContext, interval: float, as_json: bool) -> None:
    """Watch the queue live. ? lists the keys. Without a terminal: one look, and the end."""
    if as_json or not (sys.stdout.isatty() and sys.stdin.isatty()):
        async with _admin(context) as admin:
            frame = await look(admin)
        if as_json:
            print_json(frame)
        else:
            terminal().print(overview_screen(frame))
        return
    await Watch(context, interval).run()


@asynccontextmanager
async def _admin(context: CliContext) -> AsyncIterator[QueueAdmin]:
    from fastedgy.admin import QueueAdmin

    async with context.queue() as (connection, _):
        yield QueueAdmin.on(connection, context.config)


async def look(admin: QueueAdmin) -> Frame:
    """Read what the first screen shows."""
    return Frame(
        await admin.overview(),
        await admin.throughput(minutes=31),
        await admin.workers(tasks=0),
    )


@dataclass(slots=True)
class View:
    """What is looked at. `item` None is the first screen; `help` and `failed` are others."""

    item: Item | None = None
    page: str = "overview"
    chosen: Item | None = None
    items: list[Item] = field(default_factory=list)

    def move(self, step: int) -> None:
        """Choose the next or the last one; from the first and the last it goes around."""
        if not self.items:
            return
        if self.chosen in self.items:
            self.chosen = self.items[(self.items.index(self.chosen) + step) % len(self.items)]
        else:
            self.chosen = self.items[0 if step > 0 else -1]


class Watch:
    """The loop: look, draw, wait for a key or the next look."""

    def __init__(self, context: CliContext, interval: float) -> None:
        self._context = context
        self._interval = interval
        self._keys: asyncio.Queue[str] = asyncio.Queue()
        self._views = [View()]
        self._message: str | None = None
        self._question: str | None = None
        self._if_yes: Item | None = None
        self._over = False

    async def run(self) -> None:
        """Show the screen until `q`. Survives outages of the database."""
        console = Console(highlight=False, emoji=False)
        with (
            keys_of(sys.stdin.fileno(), self._keys),
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            while not self._over:
                try:
                    async with _admin(self._context) as admin:
                        await self._while_connected(admin, live)
                except DatabaseError as error:
                    self._message = f"{one_line(error)} Trying again."
                    live.update(screen("", self._message, None), refresh=True)
                    await self._next_key()

    async def _while_connected(self, admin: QueueAdmin, live: Live) -> None:
        while not self._over:
            try:
                body = await self._body(admin)
            except TaskNotFound as error:  # it was looked at, and is pruned by now
                self._views.pop()
                self._message = one_line(error)
                continue
            live.update(screen(body, self._message, self._question), refresh=True)
            key = await self._next_key()
            if key is not None:
                self._message = None
                await self.press(key, admin)

    async def _next_key(self) -> str | None:
        try:
            return await asyncio.wait_for(self._keys.get(), self._interval)
        except TimeoutError:
            return None

    # What is shown.

    @property
    def view(self) -> View:
        return self._views[-1]

    async def _body(self, admin: QueueAdmin) -> RenderableType:
        view = self.view
        if view.page == "help":
            return help_screen()
        if view.item is not None and view.item.kind == "task":
            return await self._task(admin, UUID(view.item.key))
        if view.page == "overview" and view.item is None:
            frame = await look(admin)
            view.items = frame.items()
            return overview_screen(frame, view.chosen)
        title, tasks = await self._tasks(admin, view)
        view.items = [Item("task", str(task.id)) for task in tasks]
        return tasks_screen(title, tasks, view.chosen)

    async def _tasks(self, admin: QueueAdmin, view: View) -> tuple[str, list[TaskSummary]]:
        from fastedgy.admin import TaskFilter

        if view.item is None:
            title, wanted = "Failed tasks", TaskFilter(states=("failed",))
        elif view.item.kind == "queue":
            title = f"Queue {view.item.key}: due and running"
            wanted = TaskFilter(states=("enqueued", "doing"), queue=view.item.key)
        else:
            title = f"Failed tasks named {view.item.key}"
            wanted = TaskFilter(states=("failed",), name=view.item.key)
        page = await admin.list_tasks(wanted, limit=SHOWN)
        return title, list(page.items)

    async def _task(self, admin: QueueAdmin, id: UUID) -> RenderableType:
        explanation = await admin.explain(id)
        details = await admin.get_task_details(id)
        logs = await admin.get_task_logs(id, limit=1_000)
        why = explanation_lines(explanation)[1:]
        now = explanation.checked_at or datetime.now(UTC)
        return Group(*task_page(details, logs[-10:], why, now=now))

    # What a key does.

    async def press(self, key: str, admin: QueueAdmin) -> None:
        """Act on a key."""
        view = self.view
        if self._question is not None:
            item, self._question, self._if_yes = self._if_yes, None, None
            if key == "y" and item is not None:
                await self._retry(admin, item)
            return
        try:
            match key:
                case "q":
                    self._over = True
                case "?":
                    self._views.append(View(page="help"))
                case "back" if len(self._views) > 1:
                    self._views.pop()
                case "up" | "down":
                    view.move(-1 if key == "up" else 1)
                case "enter" if view.chosen is not None:
                    self._views.append(View(view.chosen, page="tasks"))
                case "f":
                    self._views.append(View(page="failed"))
                case "p":
                    await self._pause(admin)
                case "r":
                    await self._ask_to_retry(admin)
        except DatabaseError:
            raise
        except FastEdgyError as error:
            self._message = one_line(error)

    def _meant(self, *kinds: str) -> Item | None:
        """What a key is about: what is chosen, or else what is looked at."""
        for item in (self.view.chosen, self.view.item):
            if item is not None and item.kind in kinds:
                return item
        return None

    async def _pause(self, admin: QueueAdmin) -> None:
        item = self._meant("queue")
        if item is None:
            self._message = "Choose a queue first."
            return
        paused = any(each.paused for each in await admin.queues() if each.name == item.key)
        change = admin.resume_queue if paused else admin.pause_queue
        await change(item.key, actor=actor(), source="cli")
        self._message = f"Queue {item.key} {'goes on' if paused else 'is paused'}."

    async def _ask_to_retry(self, admin: QueueAdmin) -> None:
        from fastedgy.admin import TaskFilter

        item = self._meant("task", "name")
        if item is None:
            self._message = "Choose a failed task, or a name, first."
        elif item.kind == "task":
            await self._retry(admin, item)
        else:
            failed = TaskFilter(states=("failed",), name=item.key)
            preview = await admin.preview("retry", failed)
            self._question, self._if_yes = f"{preview.sentence}", item

    async def _retry(self, admin: QueueAdmin, item: Item) -> None:
        from fastedgy.admin import TaskFilter

        if item.kind == "task":
            again = await admin.retry(UUID(item.key), actor=actor(), source="cli")
            self._message = (
                "It runs again." if again else "It cannot be retried: it has not failed, or a "
                "parent of it has."
            )  # fmt: skip
            return
        failed = TaskFilter(states=("failed",), name=item.key)
        changed = 0
        async for progress in admin.apply("retry", failed, actor=actor(), source="cli"):
            changed = progress.changed
        self._message = f"{counted(changed)} put into the line again."


@contextmanager
def keys_of(fd: int, keys: asyncio.Queue[str]) -> Iterator[None]:
    """Put what is typed at a terminal into a queue, key by key, until the block ends."""
    import termios
    import tty

    loop = asyncio.get_running_loop()
    before = termios.tcgetattr(fd)

    def read() -> None:
        for key in parsed(os.read(fd, 1024) or b"q"):  # the end of input quits
            keys.put_nowait(key)

    tty.setcbreak(fd)
    loop.add_reader(fd, read)
    try:
        yield
    finally:
        loop.remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def parsed(data: bytes) -> list[str]:
    """What was typed, as names of keys; sequences that mean nothing here are left out."""
    found: list[str] = []
    while data:
        for length in (3, 1):
            head = data[:length]
            if head in _SEQUENCES and not (head == b"\x1b" and data[1:2] in (b"[", b"O")):
                found.append(_SEQUENCES[head])
                data = data[length:]
                break
        else:
            if data[:1] == b"\x1b":  # an unknown sequence
                data = data[3:]
            else:
                found.append(data[:1].decode("latin-1"))
                data = data[1:]
    return found


COMMANDS = (watch,)
