"""Those who follow a task or the whole queue: what they have seen, and what waits for them.

Each message is a server-sent event that was encoded once. Its id says how far one has seen who has
got it, so that `Last-Event-ID` is all that is needed to go on.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import orjson

from fastedgy.store.find import ENDED
from fastedgy.store.stream import News, TaskState, raw

BUFFER = 1_000
"""Messages that wait for one follower at most. One who is slower reads again from where it is."""
REMEMBERED = 500
"""Messages of the whole queue that one who comes back may have missed."""
LINE_PAUSE = 1.0
"""Seconds between two messages about what happens in the whole queue."""
MOST_NAMED = 50


def message(event: str, id: str, data: Any) -> bytes:
    """One server-sent event."""
    text = orjson.dumps(data, default=str, option=orjson.OPT_NON_STR_KEYS)
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (id.encode(), event.encode(), text)


COMMENT = b":\n\n"
"""What keeps a silent connection open."""


class TaskFollower:
    """A stream of one task. `run`, `seq`, `history`: the log line and the run it has seen last."""

    __slots__ = ("bell", "history", "id", "lagging", "messages", "over", "run", "seq", "waiting")

    def __init__(self, id: UUID, after: str | None) -> None:
        self.id = id
        self.run, self.seq, self.history = _position(after)
        self.waiting: deque[tuple[tuple[int, int, int], bytes]] = deque()
        self.bell = asyncio.Event()
        self.lagging = False
        self.over = False

    def take(self) -> Iterable[bytes]:
        """What waits, oldest first. What was taken counts as seen."""
        while self.waiting:
            (self.run, self.seq, self.history), data = self.waiting.popleft()
            yield data


class TaskGroup:
    """Followers of one task who have seen the same of it."""

    __slots__ = ("caught_up", "context", "followers", "history", "id", "run", "seq", "shown",
                 "version")  # fmt: skip

    def __init__(self, follower: TaskFollower) -> None:
        self.id = follower.id
        self.followers = {follower}
        self.run, self.seq, self.history = follower.run, follower.seq, follower.history
        self.version = ""
        self.context: str | None = ""  # none that a row could have
        self.shown: dict[str, Any] = {}
        self.caught_up = False

    def tell(self, news: News) -> None:
        """Give all followers what is new."""
        if news.gone:
            self._say("gone", {"id": self.id})
            self._end()
            return
        state = news.state
        if state is not None:
            self._tell_attempts(state)
        for line in news.lines or ():
            self.run, self.seq = line["run"], line["seq"]
            self._say("log", line)
        self.caught_up = not news.more
        if state is None:
            return
        ended = state.state in ENDED
        if ended and news.more:
            return  # the end comes after the last line; the version stays, so it is read again
        self.version = state.version
        if state.context != self.context:
            self.context = state.context
            self._say("progress", {"context": raw(state.context)})
        shown = _shown(state)
        if shown != self.shown:
            self.shown = shown
            self._say("state", shown)
        if ended:
            self._say("result", _result(state))
            self._end()

    def _tell_attempts(self, state: TaskState) -> None:
        for run in state.history:
            number = run.get("run") if isinstance(run, dict) else None
            if isinstance(number, int) and number > self.history:
                self.history = number
                self._say("attempt", run)

    def _say(self, event: str, data: Any) -> None:
        place = (self.run, self.seq, self.history)
        encoded = message(event, "{}.{}.{}".format(*place), data)
        for follower in list(self.followers):
            if len(follower.waiting) >= BUFFER:
                # It takes what waits, and then reads on from there by itself.
                follower.lagging = True
                self.followers.discard(follower)
            else:
                follower.waiting.append((place, encoded))
            follower.bell.set()

    def _end(self) -> None:
        for follower in self.followers:
            follower.over = True
            follower.bell.set()


class QueueReader:
    """A stream of the whole queue: only its place in the line."""

    __slots__ = ("_line", "bell", "place")

    def __init__(self, line: QueueLine, place: int) -> None:
        self._line = line
        self.place = place
        self.bell = asyncio.Event()

    def take(self) -> list[bytes]:
        """What it has not seen."""
        found = self._line.after(self.place)
        self.place = self._line.last
        return found


class QueueLine:
    """What is said about the whole queue: a short memory that all readers share.

    `wanted`: the workers were asked to tell of everything. `ask`: an overview is wanted at once.
    """

    def __init__(self) -> None:
        self._epoch = secrets.token_hex(4)
        self._messages: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED)
        self._readers: set[QueueReader] = set()
        self._started = 0
        self._ended: Counter[str] = Counter()
        self._named: list[dict[str, Any]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.last = 0
        self.wanted = False
        self.ask = False

    def reader(self, after: str | None) -> QueueReader:
        """A new reader, which goes on after an event's id, or begins now."""
        reader = QueueReader(self, self.last)
        self._readers.add(reader)
        self.ask = True
        if after:
            epoch, _, number = after.partition("-")
            place = int(number) if number.isdigit() and len(number) < 16 else -1
            first = self._messages[0][0] if self._messages else self.last + 1
            if epoch == self._epoch and first - 1 <= place <= self.last:
                reader.place = place
            else:
                reader.place = -1
        reader.bell.set()
        return reader

    def leave(self, reader: QueueReader) -> None:
        """A reader has gone."""
        self._readers.discard(reader)

    def after(self, place: int) -> list[bytes]:
        """The messages after a place; a `reset` where they are not all remembered."""
        first = self._messages[0][0] if self._messages else self.last + 1
        if place < first - 1:
            return [message("reset", self._id(self.last), {})]
        return [data for number, data in self._messages if number > place]

    def put(self, event: str, data: Any) -> None:
        """Say something to all."""
        self.last += 1
        self._messages.append((self.last, message(event, self._id(self.last), data)))
        self.wake()

    def reset(self) -> None:
        """Something was missed: all have to look for themselves."""
        self.put("reset", {})
        self.ask = True

    def forget(self) -> None:
        """Nobody is told any more: who comes back cannot go on from what is remembered."""
        self._epoch = secrets.token_hex(4)
        self._messages.clear()

    def wake(self) -> None:
        """Have all readers look."""
        for reader in self._readers:
            reader.bell.set()

    def add(self, started: Any, ended: Any, named: Iterable[Any]) -> None:
        """What a worker has told; it goes out once a second, together."""
        if isinstance(started, int):
            self._started += started
        if isinstance(ended, dict):
            self._ended.update({str(k): v for k, v in ended.items() if isinstance(v, int)})
        for change in named:
            if len(self._named) < MOST_NAMED and len(change) == 4:
                id, state, name, queue = change
                self._named.append({"id": id, "state": state, "name": name, "queue": queue})
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LINE_PAUSE, self._flush)

    def _flush(self) -> None:
        self._timer = None
        ended = dict(self._ended)
        self.put("tasks", {"started": self._started, "ended": ended, "tasks": self._named})
        self._named, self._started = [], 0
        self._ended.clear()

    def _id(self, number: int) -> str:
        return f"{self._epoch}-{number}"


def _position(after: str | None) -> tuple[int, int, int]:
    """What an event's id says. Anything else: nothing has been seen."""
    parts = (after or "").split(".")
    try:
        run, seq, history = (int(part) for part in parts)
    except ValueError:
        return -1, -1, -1
    return tuple(max(-1, min(number, 2**31 - 1)) for number in (run, seq, history))  # type: ignore[return-value]


def _shown(state: TaskState) -> dict[str, Any]:
    left_out = ("history", "context", "result", "result_left_out", "version")
    return {name: getattr(state, name) for name in TaskState.__slots__ if name not in left_out}


def _result(state: TaskState) -> dict[str, Any]:
    return {
        "state": state.state,
        "result": raw(state.result),
        "result_left_out": state.result_left_out,
        "error_type": state.error_type,
        "error_message": state.error_message,
    }
