"""Structured logging: one line per event, as text or as JSON."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fastedgy.logs import CommandHandler, LogFormat, configure_logging

logger = logging.getLogger("shop.orders")


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


def configured(format: LogFormat, **options: Any) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(format, stream=stream, **options)
    return stream


def test_text_ends_in_the_fields() -> None:
    stream = configured("text")
    logger.info("order %s paid", 7, extra={"pid": 12, "reason": "card ok", "note": ""})
    line = stream.getvalue()
    assert line.endswith(' INFO shop.orders order 7 paid pid=12 reason="card ok" note=""\n')


def test_a_field_cannot_break_out_of_its_line() -> None:
    stream = configured("text")
    logger.info("paid", extra={"note": "a\nb", "user": "\x1b[2J"})
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


def test_json_is_one_object_a_line() -> None:
    stream = configured("json")
    logger.warning("order %s paid", 7, extra={"pid": 12, "who": {1}, "level": "mine"})
    [line] = stream.getvalue().splitlines()
    record = json.loads(line)
    assert record.pop("time").endswith("+00:00")
    assert record == {
        "level": "warning",
        "logger": "shop.orders",
        "message": "order 7 paid",
        "pid": 12,
        "who": "{1}",
    }


def test_json_has_the_traceback_in_a_field() -> None:
    stream = configured("json")
    try:
        raise ValueError("no such order")
    except ValueError:
        logger.exception("failed")
    record = json.loads(stream.getvalue())
    assert record["exception"].endswith("ValueError: no such order")


def test_what_is_below_the_level_is_not_written() -> None:
    stream = configured("text", level="warning")
    logger.info("nothing")
    logger.warning("something")
    assert stream.getvalue().count("\n") == 1


def test_configuring_again_replaces_its_own_handler_only() -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    first, second = configured("text"), configured("json")
    logger.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1
    handlers = logging.getLogger().handlers
    assert other in handlers
    assert sum(isinstance(handler, CommandHandler) for handler in handlers) == 1


def test_the_handler_of_a_bare_basic_config_does_not_say_everything_twice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logging.getLogger().handlers.clear()
    logging.basicConfig()
    configure_logging()
    logger.warning("once")
    assert capsys.readouterr().err.count("once") == 1


@pytest.mark.parametrize(
    ("replacement", "is_noticed"),
    [
        ("logging.Logger.callHandlers", False),
        ("lambda self, record: None", True),
        ("functools.partial(print)", True),
    ],
)
def test_who_replaced_callhandlers_before_the_import_is_noticed(
    replacement: str, is_noticed: bool
) -> None:
    code = (
        "import functools, logging\n"
        f"logging.Logger.callHandlers = {replacement}\n"
        "from fastedgy import logs\n"
        "logs.configure_logging()\n"
        f"assert (logs.only_listener(logging.getLogger()) is None) is {is_noticed}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
