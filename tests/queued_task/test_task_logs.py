"""`getLogger`: rows inside a task, and normal logging besides."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from fastedgy.logs import HELD, LogFormat, configure_logging
from fastedgy.queued_task import TaskContext, TaskRun, getLogger

NAME = "tests.of.task.logs"


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    yield getLogger(NAME)
    logging.getLogger(NAME).setLevel(logging.NOTSET)
    getLogger(NAME).setLevel(logging.NOTSET)


def rows(run: TaskRun) -> list[tuple[str, str, str]]:
    return [(level, name, message) for level, _, name, message, _ in run.take_logs()[1]]


def info(run: TaskRun) -> dict[str, Any]:
    [(_, _, _, _, text)] = run.take_logs()[1]
    assert text is not None
    return dict(json.loads(text))


def test_records_inside_a_task_become_rows_whatever_the_programs_level(
    logger: logging.Logger,
) -> None:
    logging.getLogger(NAME).setLevel(logging.ERROR)
    with TaskContext() as run:
        logger.debug("a")
        logger.info("b %s", 1)
        logger.warning("c")
        logger.error("d")
        logger.critical("e")
        logger.log(25, "f")
        logger.log(5, "g")
    assert [(level, message) for level, _, message in rows(run)] == [
        ("debug", "a"), ("info", "b 1"), ("warning", "c"), ("error", "d"), ("critical", "e"),
        ("info", "f"), ("debug", "g"),
    ]  # fmt: skip


def test_normal_logging_goes_on_by_its_own_rules(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger(NAME).setLevel(logging.INFO)
    logger.info("outside")
    logger.debug("hidden")
    with TaskContext() as run:
        logger.info("inside")
        logger.debug("row only")
    assert caplog.messages == ["outside", "inside"]
    assert {record.funcName for record in caplog.records} == {
        "test_normal_logging_goes_on_by_its_own_rules"
    }
    assert rows(run) == [("info", NAME, "inside"), ("debug", NAME, "row only")]


def test_it_is_a_drop_in_for_the_standard_logger(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(logger, logging.Logger)
    assert getLogger(NAME) is logger
    assert pickle.loads(pickle.dumps(logger)) is logger
    assert logger.getChild("child") is getLogger(f"{NAME}.child")
    assert getLogger().name == getLogger("root").name == "root"
    assert getLogger().getChild("x") is getLogger("x")
    assert logger.hasHandlers() == logging.getLogger(NAME).hasHandlers()
    logger.setLevel("WARNING")
    assert logging.getLogger(NAME).level == logging.WARNING
    assert logger.getEffectiveLevel() == logging.WARNING
    assert not logger.isEnabledFor(logging.INFO)
    with TaskContext() as run:
        assert logger.getEffectiveLevel() == logging.WARNING
        logger.info("below")
        logger.warning("above")
    assert [message for _, _, message in rows(run)] == ["above"]
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    only_b = lambda record: "b" in record.getMessage()  # noqa: E731
    logger.addHandler(handler)
    logger.addFilter(only_b)
    logger.warning("a")
    logger.warning("b")
    logger.removeFilter(only_b)
    logger.removeHandler(handler)
    logger.warning("c")
    assert lines == ["b"]
    assert caplog.messages == ["above", "b", "c"]


@pytest.mark.parametrize("name", [1, b"x", ["a"]])
def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    with pytest.raises(TypeError, match="the name of a logger is text"):
        getLogger(name)


@pytest.mark.parametrize("level", [logging.DEBUG, logging.CRITICAL])
def test_exceptions_and_extras_are_kept(logger: logging.Logger, level: int) -> None:
    logging.getLogger(NAME).setLevel(level)
    with TaskContext() as run:
        try:
            raise KeyError("lost\x00")
        except KeyError as error:
            logger.exception("it failed", extra={"order": 7, "thing": object, "bad": "\ud800"})
            found = info(run)
            assert found["exception"]["type"] == "builtins.KeyError"
            assert "lost" in found["exception"]["message"]
            assert 'raise KeyError("lost' in found["exception"]["traceback"]
            assert found["extra"]["order"] == 7
            assert "class 'object'" in found["extra"]["thing"]
            assert found["extra"]["bad"] == "\\ud800"
            logger.info("again", exc_info=error)
            assert info(run)["exception"]["type"] == "builtins.KeyError"
        logger.info("where", stack_info=True)
        assert "test_exceptions_and_extras_are_kept" in info(run)["stack"]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class Unnameable(Unprintable):
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_hostile_records_do_no_harm(logger: logging.Logger) -> None:
    logging.getLogger(NAME).setLevel(logging.CRITICAL)
    with TaskContext() as run:
        logger.info("%d", "no number")
        logger.info("a\x00b\ud800")
        logger.info("x" * 200_000)
        logger.info(Unprintable())
        logger.info("%s", Unprintable())
        logger.info(Unnameable(), 1)
        try:
            raise Unprintable
        except Unprintable:
            logger.exception("failed", extra={"it": Unprintable()})
        lines = run.take_logs()[1]
    messages = [line[3] for line in lines]
    assert "its arguments do not fit" in messages[0]
    assert messages[1] == "a\\x00b\\ud800"
    assert len(messages[2]) < 100_100
    assert "cannot be printed" in messages[5]
    assert len(lines) == 7
    for line in lines:
        "".join(text for text in line if isinstance(text, str)).encode()
    assert "cannot be printed" in str(lines[6][4])


def test_lines_beyond_the_limit_are_dropped_and_counted(logger: logging.Logger) -> None:
    logging.getLogger(NAME).setLevel(logging.CRITICAL)
    with TaskContext(TaskRun(TaskContext().task.id, log_limit=5)) as run:
        for number in range(100):
            logger.info("%d", number)
    assert run.logs_dropped == 95
    assert [message for _, _, message in rows(run)] == ["0", "1", "2", "3", "4"]


def test_beyond_the_limit_nothing_is_made_of_what_comes_with_a_line(
    logger: logging.Logger,
) -> None:
    class Dear:
        def __repr__(self) -> str:
            raise AssertionError("nobody reads it")

    logging.getLogger(NAME).setLevel(logging.CRITICAL)
    with TaskContext(TaskRun(TaskContext().task.id, log_limit=1)) as run:
        logger.info("first")
        logger.info("with more", extra={"dear": Dear()})
        try:
            raise ValueError(Dear())
        except ValueError:
            logger.exception("with a traceback")
    assert run.logs_dropped == 2
    assert [message for _, _, message in rows(run)] == ["first"]


def _logs_it(logger: Any, how: str) -> None:
    if how == "log":
        logger.log(logging.INFO, "x")
    elif how == "stack_info":
        logger.info("x", stack_info=True)
    elif how == "extra":
        logger.info("x", extra={"a": 1})
    elif how == "one further out":
        logger.info("x", stacklevel=2)
    elif how == "adapter":
        logging.LoggerAdapter(logger, {}).info("x")
    else:
        getattr(logger, how)("x")


HOW = ["debug", "info", "warning", "error", "critical", "fatal", "exception", "log", "stack_info",
       "extra", "one further out", "adapter"]  # fmt: skip


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
@pytest.mark.parametrize("how", HOW)
def test_a_record_tells_where_it_was_logged(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture, how: str, inside: bool
) -> None:
    logger.setLevel(logging.DEBUG)
    with TaskContext() if inside else nullcontext():
        _logs_it(logger, how)
    [record] = caplog.records
    assert record.funcName == (
        "test_a_record_tells_where_it_was_logged" if how == "one further out" else "_logs_it"
    )


async def test_a_thread_of_a_task_writes_its_rows(logger: logging.Logger) -> None:
    with TaskContext() as run:
        await asyncio.to_thread(logger.info, "from a thread")
    assert rows(run) == [("info", NAME, "from a thread")]


def test_other_loggers_write_no_rows() -> None:
    with TaskContext() as run:
        logging.getLogger("somebody.else").error("x")
        logging.getLogger(NAME).error("x")
    assert rows(run) == []


@contextmanager
def as_in_a_worker(format: LogFormat = "text") -> Iterator[io.StringIO]:
    """Logging as a worker has it, without pytest's handlers. Yields what the worker prints."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    stream = io.StringIO()
    root.handlers = []
    try:
        configure_logging(format, stream=stream)
        yield stream
    finally:
        root.handlers = handlers
        root.setLevel(level)


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_workers_own_log_shows_the_same_whether_it_is_the_only_one_who_listens(
    logger: logging.Logger, format: LogFormat
) -> None:
    def say() -> None:
        logger.info("step %d of %s", 1, "two")
        logger.info("%(a)s", {"a": "by name"})
        logger.warning("per cent %")
        logger.error("unfit %d", "x")
        logger.debug("row only")
        logger.info("with more", extra={"size": 3})

    with as_in_a_worker(format) as stream, TaskContext() as run:
        say()
        alone, seen = rows(run), _without_time(stream)
        heard = logging.Handler()
        heard.handle = lambda record: True  # type: ignore[method-assign]
        logging.getLogger().addHandler(heard)
        logging.getLogger(NAME).filters.append(lambda record: "unfit" not in str(record.msg))
        stream.truncate(0)
        say()
        logging.getLogger(NAME).filters.clear()
        assert rows(run) == alone
    assert [message for _, _, message in alone][:3] == ["step 1 of two", "by name", "per cent %"]
    assert [line for line in seen if "unfit" not in line] == _without_time(stream)
    assert len(seen) == 5


def _without_time(stream: io.StringIO) -> list[str]:
    lines = stream.getvalue().replace("\x00", "").splitlines()
    if lines[0].startswith("{"):
        return [str(json.loads(line) | {"time": ""}) for line in lines]
    return [line[len("2000-01-01 00:00:00.000") :] for line in lines]


@pytest.mark.parametrize("how", ["handler", "filter", "factory", "call_handlers", "above"])
def test_whoever_else_listens_gets_records(
    logger: logging.Logger, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    def hear(record: logging.LogRecord) -> bool:
        heard.append(record.funcName)
        return True

    handler = logging.Handler()
    monkeypatch.setattr(handler, "handle", hear)
    standard, parent = logging.getLogger(NAME), logging.getLogger("tests")
    if how == "handler":
        monkeypatch.setattr(standard, "handlers", [handler])
    elif how == "above":
        monkeypatch.setattr(parent, "handlers", [handler])
    elif how == "filter":
        monkeypatch.setattr(standard, "filters", [hear])
    elif how == "factory":
        factory = logging.getLogRecordFactory()

        def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
            record = factory(*args, **kwargs)
            hear(record)
            return record

        logging.setLogRecordFactory(make)
    else:
        monkeypatch.setattr(logging.Logger, "callHandlers", lambda self, record: hear(record))
    try:
        with as_in_a_worker(), TaskContext():
            logger.info("hello")
    finally:
        logging.setLogRecordFactory(logging.LogRecord)
    assert heard == ["test_whoever_else_listens_gets_records"]


async def test_what_is_said_in_one_breath_is_written_in_one_go_and_in_order(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastedgy.logs.BREATH", 1_000.0)

    def said() -> list[str]:
        return [line.rpartition(" ")[2] for line in stream.getvalue().splitlines()]

    with as_in_a_worker() as stream, TaskContext():
        logger.info("first")
        assert said() == ["first"]
        logger.info("second")
        logger.info("third")
        assert said() == ["first"]
        await asyncio.sleep(0)
        assert said() == ["first", "second", "third"]
        logger.info("fourth")
        logging.getLogger("tests.other").info("record")
        assert said()[3:] == ["fourth", "record"]
        await asyncio.to_thread(logger.info, "thread")
        assert said()[5:] == ["thread"]
        for number in range(HELD):
            logger.info("%d", number)
        assert len(said()) == 6 + HELD
        logger.info("last")
    await asyncio.sleep(0)
    assert said()[-1] == "last"


def test_a_console_that_is_gone_is_complained_of_and_stops_nothing(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    with as_in_a_worker() as stream, TaskContext() as run:
        stream.close()
        logger.info("hello")
    assert [message for _, _, message in rows(run)] == ["hello"]
    assert "Logging error" in capsys.readouterr().err
