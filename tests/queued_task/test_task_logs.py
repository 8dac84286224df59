"""`getLogger`: rows inside a task, and normal logging besides."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

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


def test_hostile_records_do_no_harm(logger: logging.Logger) -> None:
    logging.getLogger(NAME).setLevel(logging.CRITICAL)
    with TaskContext() as run:
        logger.info("%d", "no number")
        logger.info("a\x00b\ud800")
        logger.info("x" * 200_000)
        logger.info(Unprintable())
        logger.info("%s", Unprintable())
        try:
            raise Unprintable
        except Unprintable:
            logger.exception("failed", extra={"it": Unprintable()})
        lines = run.take_logs()[1]
    messages = [line[3] for line in lines]
    assert "its arguments do not fit" in messages[0]
    assert messages[1] == "a\\x00b\\ud800"
    assert len(messages[2]) < 100_100
    assert len(lines) == 6
    for line in lines:
        "".join(text for text in line if isinstance(text, str)).encode()
    assert "cannot be printed" in str(lines[5][4])


def test_lines_beyond_the_limit_are_dropped_and_counted(logger: logging.Logger) -> None:
    logging.getLogger(NAME).setLevel(logging.CRITICAL)
    with TaskContext(TaskRun(TaskContext().task.id, log_limit=5)) as run:
        for number in range(100):
            logger.info("%d", number)
    assert run.logs_dropped == 95
    assert [message for _, _, message in rows(run)] == ["0", "1", "2", "3", "4"]


async def test_a_thread_of_a_task_writes_its_rows(logger: logging.Logger) -> None:
    with TaskContext() as run:
        await asyncio.to_thread(logger.info, "from a thread")
    assert rows(run) == [("info", NAME, "from a thread")]


def test_other_loggers_write_no_rows() -> None:
    with TaskContext() as run:
        logging.getLogger("somebody.else").error("x")
        logging.getLogger(NAME).error("x")
    assert rows(run) == []
