"""How commands and workers log: one line per event, for people or for machines.

What is to be found again goes into `extra=`: `logger.info("worker ready", extra={"pid": 12})` is
`… INFO fastedgy.supervisor worker ready pid=12` as text, and `{…, "message": "worker ready",
"pid": 12}` as JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, TextIO

BREATH = 0.05
"""Seconds since the last write in which lines are held back until the event loop comes round."""
LATEST = 1.0
"""Seconds after which nobody counts on a write that was to come."""
HELD = 1_000
"""Lines that are held back at most."""

Line = tuple[float, int, str, str, dict[str, Any] | None]
"""A plain message: seconds since 1970, level, logger, text, and where it was said."""

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_USUALLY = len(vars(logging.makeLogRecord({})))
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as `extra=`, in that order."""
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


class TextFormatter(logging.Formatter):
    """A line for people: local time, level, logger, message, then `name=value` of each field.

    A traceback follows on lines of its own. Tasks log much, so this makes the line by itself, and
    what stands before the message once a millisecond for all lines that are written together: the
    base class takes ten times as long.
    """

    def lines(self, said: Iterable[Line]) -> list[str]:
        """The lines of plain messages."""
        lines = []
        last = -1
        for at, level, name, message, _ in said:
            millisecond = int(at * 1000)
            if millisecond != last:
                last, beginnings = millisecond, dict[tuple[int, str], str]()
                stamp = _stamp(millisecond // 1000)
            beginning = beginnings.get((level, name))
            if beginning is None:
                word = logging.getLevelName(level)
                beginning = f"{stamp}.{millisecond % 1000:03d} {word} {name} "
                beginnings[level, name] = beginning
            lines.append(beginning + message)
        return lines

    def format(self, record: logging.LogRecord) -> str:
        plain = (record.created, record.levelno, record.name, record.getMessage(), None)
        [line] = self.lines([plain])
        if len(vars(record)) > _USUALLY:
            pairs = [f"{name}={_shown(value)}" for name, value in fields(record).items()]
            line = " ".join([line, *pairs])
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        if record.stack_info:
            line = f"{line}\n{self.formatStack(record.stack_info)}"
        return line


class JSONFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, the fields, and `exception`.

    In a task also `task_id`, `task` and `attempt`; in a trace `trace_id` and `span_id`.
    """

    def lines(self, said: Iterable[Line]) -> list[str]:
        """The lines of plain messages."""
        return [
            json.dumps(
                _object(at, logging.getLevelName(level), name, message) | (where or {}), default=str
            )
            for at, level, name, message, where in said
        ]

    def format(self, record: logging.LogRecord) -> str:
        line = _object(record.created, record.levelname, record.name, record.getMessage())
        for name, value in (fields(record) | _whereabouts()).items():
            line.setdefault(name, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, default=str, skipkeys=True)


@lru_cache(maxsize=2)
def _stamp(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


def _object(at: float, level: str, name: str, message: str) -> dict[str, Any]:
    return {
        "time": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"),
        "level": level.lower(),
        "logger": name,
        "message": message,
    }


def _whereabouts() -> dict[str, Any]:
    """The task and the trace in which a line is logged, where there can be one in this process."""
    tracing = sys.modules.get("fastedgy.queued_task.tracing")
    return {} if tracing is None else tracing.log_fields()


class CommandHandler(logging.StreamHandler[TextIO]):
    """The handler of `configure_logging`, so that a second call replaces it and nothing else."""

    def __init__(self, stream: TextIO, formatter: TextFormatter | JSONFormatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self._lines = formatter.lines
        self._where = _whereabouts if isinstance(formatter, JSONFormatter) else None
        self._held: deque[Line] = deque()
        self._written = 0.0
        self._coming = 0.0

    def say(self, level: int, name: str, message: str) -> None:
        """Write a plain message, as a record of it would be: in a tenth of the time.

        What is said in the same breath is written in one go: when the event loop comes round, with
        the next record, or at the end.
        """
        if level < self.level:
            return
        at = time.time()
        try:
            held = self._held
            held.append((at, level, name, message, self._where and self._where()))
            # First the line, then the look whether somebody comes for it; who comes says so before
            # he takes what there is. So none is left behind, whichever thread it is of.
            if not 0 <= at - self._coming < LATEST or len(held) >= HELD:
                self._coming = at
                self._write_soon(at)
        except Exception:
            self._complain(name, level, message)

    def _write_soon(self, now: float) -> None:
        if now - self._written < BREATH and len(self._held) < HELD:
            try:
                asyncio.get_running_loop().call_soon(self._come_round)
                return
            except RuntimeError:  # a thread, whose lines nobody would come for
                pass
        self._written = now
        self.flush()

    def _come_round(self) -> None:
        try:
            self.flush()
        except Exception:
            self._complain(__name__, logging.ERROR, "lines that were held back")

    def _complain(self, name: str, level: int, message: str) -> None:
        """Say on stderr that it cannot be written, in logging's own way: that wants a record."""
        self.handleError(logging.LogRecord(name, level, "", 0, message, None, None))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, after what was said before it."""
        self._come_round()
        super().emit(record)

    def flush(self) -> None:
        """Write what was said."""
        self.acquire()
        try:
            self._coming = 0.0
            held, said = self._held, []
            while held:  # of any thread, at any moment
                said.append(held.popleft())
            if said:
                self._written = time.time()
                self.stream.write(self.terminator.join([*self._lines(said), ""]))
            super().flush()
        finally:
            self.release()


def only_listener(listener: logging.Logger) -> CommandHandler | None:
    """The handler of `configure_logging`, if what this logger is told goes there and nowhere else.

    None where anybody may look at the records: other handlers, filters, a record factory, or a
    `callHandlers` that was put in place of logging's own (Sentry does).
    """
    if (
        listener.filters
        or logging.getLogRecordFactory() is not logging.LogRecord
        or logging.Logger.callHandlers is not _CALL_HANDLERS
    ):
        return None
    found: CommandHandler | None = None
    above: logging.Logger | None = listener
    while above is not None:
        for handler in above.handlers:
            if found is not None or type(handler) is not CommandHandler or handler.filters:
                return None
            found = handler
        above = above.parent if above.propagate else None
    return found


def _is_loggings_own(function: object) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename == logging.addLevelName.__code__.co_filename


# None where somebody was faster and put another in its place: nothing that is there is None.
_CALL_HANDLERS = (
    logging.Logger.callHandlers if _is_loggings_own(logging.Logger.callHandlers) else None
)


def configure_logging(
    format: LogFormat = "text",
    level: LogLevel = "info",
    *,
    stream: TextIO | None = None,
) -> None:
    """Log everything from `level` on to `stream` (default: stderr), once however often called.

    Handlers that the application has added to the root logger stay as they are, but for the one
    of a bare `logging.basicConfig()`: it writes the same to the same place, and libraries install
    it unasked (`logging.debug(…)` does).
    """
    formatter = JSONFormatter() if format == "json" else TextFormatter()
    handler = CommandHandler(stream or sys.stderr, formatter)
    root = logging.getLogger()
    for other in list(root.handlers):
        if isinstance(other, CommandHandler) or _is_basic(other):
            root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(level.upper())


def _is_basic(handler: logging.Handler) -> bool:
    """Whether it is what `logging.basicConfig()` installs when it is told nothing."""
    return (
        type(handler) is logging.StreamHandler
        and handler.stream is sys.stderr
        and handler.formatter is not None
        and handler.formatter._fmt == logging.BASIC_FORMAT
    )


def _shown(value: object) -> str:
    """A value on one line, quoted where it would run into its neighbours."""
    text = str(value)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)
