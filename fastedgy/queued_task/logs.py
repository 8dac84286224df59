"""`getLogger`: loggers whose records become rows of the running task, besides being logged.

The standard library's logger of the same name gets every record too, under its own level,
handlers and filters. Its level does not decide about the rows: a task's `info` lines are wanted in
its row although a plain program shows warnings only.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from fastedgy.logs import only_listener
from fastedgy.queued_task.encoding import NotEncodable, clean, dumps
from fastedgy.queued_task.running import TaskRun, current

_LEVELS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}
# What every record has. Whatever else it has was given as `extra=`.
_USUALLY = len(vars(logging.makeLogRecord({})))
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LONGEST_MESSAGE = 100_000
_LONGEST_TRACEBACK = 50_000


def _method(level: int) -> Callable[..., None]:
    """A logger's method for one level, `info` for instance, with a short way to the row."""
    word = _LEVELS[level]
    general: Callable[..., None] = getattr(logging.Logger, word)

    @wraps(general)
    def method(self: TaskLogger, msg: object, *args: object, **kwargs: Any) -> None:
        run = current.get()
        if run is None or kwargs:
            # The caller's line is meant, not the next one.
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            general(self, msg, *args, **kwargs)
        elif not self._say(run, level, word, msg, args):
            logging.Logger._log(self, level, msg, args, stacklevel=2)

    return method


class TaskLogger(logging.Logger):
    """A logger of the standard library's kind that also writes rows while a task is running."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._clean_name = clean(name)
        self._standard = logging.getLogger(name)
        self.parent = self._standard.parent

    debug = _method(logging.DEBUG)
    info = _method(logging.INFO)
    warning = _method(logging.WARNING)
    error = _method(logging.ERROR)
    critical = _method(logging.CRITICAL)

    def _say(self, run: TaskRun, level: int, word: str, msg: object, args: Any) -> bool:
        """Write a plain line without a record; False where somebody might look at the record.

        Without one, nobody asks where in the source it was logged: finding out costs the most.
        """
        console = None
        if self._standard.isEnabledFor(level):
            console = only_listener(self._standard)
            if console is None:
                return False
        elif level < self.level:
            return True
        elif run.is_log_full:
            run.logs_dropped += 1  # a million lines should not cost a million messages
            return True
        message = _formatted(msg, args)
        if level >= self.level:
            run.log(word, self._clean_name, message)
        if console is not None:
            console.say(level, self.name, message)
        return True

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the standard library's name
        """Whether a record of this level goes anywhere."""
        if current.get() is not None and level >= self.level:
            return True
        return self._standard.isEnabledFor(level)

    def getEffectiveLevel(self) -> int:  # noqa: N802
        """The level from which on records are looked at: in a task its own, else the standard."""
        if current.get() is not None:
            return self.level or logging.DEBUG
        return self._standard.getEffectiveLevel()

    def setLevel(self, level: int | str) -> None:  # noqa: N802
        """Set the level for the rows and for the standard logger."""
        super().setLevel(level)
        self._standard.setLevel(level)

    def _log(
        self,
        level: int,
        msg: object,
        args: Any,
        exc_info: Any = None,
        extra: Any = None,
        stack_info: bool = False,
        stacklevel: int = 1,
    ) -> None:
        run = current.get()
        if run is not None and not stack_info:
            if not (exc_info or extra):
                if self._say(run, level, _level_of(level), msg, args):
                    return
            elif not self._standard.isEnabledFor(level) or only_listener(self._standard):
                if isinstance(exc_info, BaseException):
                    exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
                elif exc_info and not isinstance(exc_info, tuple):
                    exc_info = sys.exc_info()
                record = self.makeRecord(self.name, level, "", 0, msg, args, exc_info, None, extra)
                self.handle(record)
                return
        super()._log(level, msg, args, exc_info, extra, stack_info, stacklevel + 1)

    def handle(self, record: logging.LogRecord) -> None:
        """Make the record a row of the running task, and hand it to the standard logger."""
        run = current.get()
        if run is not None and record.levelno >= self.level:
            if run.is_log_full:
                run.logs_dropped += 1
            else:
                run.log(
                    _level_of(record.levelno),
                    self._clean_name,
                    _formatted(record.msg, record.args),
                    _info_of(record),
                )
        if self._standard.isEnabledFor(record.levelno):
            self._standard.handle(record)

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802
        """Add a handler to the standard logger of this name."""
        self._standard.addHandler(hdlr)

    def removeHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802
        """Remove a handler from the standard logger of this name."""
        self._standard.removeHandler(hdlr)

    def hasHandlers(self) -> bool:  # noqa: N802
        """Whether the standard logger of this name has handlers, its ancestors' included."""
        return self._standard.hasHandlers()

    def addFilter(self, filter: Any) -> None:  # noqa: N802
        """Add a filter to the standard logger of this name; rows are not filtered."""
        self._standard.addFilter(filter)

    def removeFilter(self, filter: Any) -> None:  # noqa: N802
        """Remove a filter from the standard logger of this name."""
        self._standard.removeFilter(filter)

    def getChild(self, suffix: str) -> TaskLogger:  # noqa: N802
        """The logger below this one, of the same kind."""
        return getLogger(suffix if self.name == "root" else f"{self.name}.{suffix}")

    def __reduce__(self) -> tuple[Any, ...]:
        return getLogger, (self.name,)


_loggers: dict[str, TaskLogger] = {}


def getLogger(name: str | None = None) -> TaskLogger:  # noqa: N802 - a drop-in for logging's
    """The logger of that name: a `logging.Logger` whose records inside a task become rows too.

    Raises TypeError when the name is not text.
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"the name of a logger is text, not {name!r}")
    known = _loggers.get(name or "root")
    if known is None:
        known = _loggers.setdefault(name or "root", TaskLogger(name or "root"))
    return known


def _level_of(number: int) -> str:
    """The word for a level, the next lower one for those in between."""
    word = _LEVELS.get(number)
    if word is not None:
        return word
    return _LEVELS[max((level for level in _LEVELS if level <= number), default=logging.DEBUG)]


def _formatted(msg: object, args: Any) -> str:
    """The message with its arguments, as a record would have it, in what a row can hold."""
    try:
        message = msg if type(msg) is str else str(msg)
        if args:
            if type(args) is tuple and len(args) == 1 and isinstance(args[0], Mapping) and args[0]:
                args = args[0]
            message %= args
    except Exception as error:  # the author's format does not fit its arguments
        shown = repr(msg) if type(msg) is str else _text_of(msg)
        message = f"{shown} (its arguments do not fit: {type(error).__name__})"
    return clean(message, _LONGEST_MESSAGE)


def _info_of(record: logging.LogRecord) -> str | None:
    """What a record carries besides its message, as JSON text: exception, stack, `extra=`."""
    if not (record.exc_info or record.stack_info) and len(vars(record)) == _USUALLY:
        return None
    info: dict[str, Any] = {}
    extra = vars(record).keys() - _USUAL
    if extra:
        info["extra"] = {clean(name): _storable(vars(record)[name]) for name in sorted(extra)}
    if record.exc_info:
        kind, error, _ = record.exc_info
        info["exception"] = {
            "type": "" if kind is None else f"{kind.__module__}.{kind.__qualname__}",
            "message": clean(_text_of(error), 10_000),
            "traceback": _traceback_of(record.exc_info),
        }
    if record.stack_info:
        info["stack"] = clean(record.stack_info, _LONGEST_TRACEBACK)
    return dumps(info) if info else None


def _storable(value: Any) -> Any:
    try:
        dumps(value)
    except NotEncodable:
        return clean(_text_of(value), 1_000)
    return value


def _text_of(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__} that cannot be printed: {type(error).__name__}>"


def _traceback_of(exc_info: Any) -> str:
    try:
        text = "".join(traceback.format_exception(*exc_info))
    except Exception as error:
        text = f"<no traceback: {type(error).__name__} while printing it>"
    return clean(text, _LONGEST_TRACEBACK)
