"""Which functions can be tasks, and how their arguments are bound."""

from __future__ import annotations

import functools
import math
import sys
import types
from typing import Any

import pytest
import task_samples as samples

from fastedgy.config import QueuedTaskConfig
from fastedgy.dependencies import register_service, unregister_service
from fastedgy.errors import FastEdgyError, InvalidArguments, InvalidFunction, InvalidOption
from fastedgy.queued_task.functions import describe, describe_closure
from fastedgy.queued_task.options import NO_OPTIONS, TaskOptions, task
from fastedgy.store.redaction import REDACTED


def test_a_function_is_known_by_its_import_path() -> None:
    found = describe(samples.send)
    assert (found.path, found.name) == ("task_samples:send", "task_samples.send")
    assert found.is_async
    assert found.call is samples.send
    assert found.options is NO_OPTIONS
    assert found.injected == {}
    assert describe(samples.send) is found
    assert not describe(samples.nothing).is_async


def test_a_decorated_function_has_its_name_and_options() -> None:
    found = describe(samples.report)
    assert (found.path, found.name) == ("task_samples:report", "report")
    assert found.options.queue == "reports"


def test_a_static_method_and_a_wrapped_function_can_be_imported_too() -> None:
    assert describe(samples.Service.run).path == "task_samples:Service.run"
    assert describe(samples.wrapped).path == "task_samples:wrapped"


async def test_a_coroutine_in_place_of_its_function_is_refused_and_leaves_no_warning() -> None:
    with pytest.raises(InvalidFunction, match=r"Pass the function.*apart: add_task\(send, …\)"):
        describe(samples.send("a", "b"))


@pytest.mark.parametrize(
    ("func", "reason"),
    [
        (samples.a_lambda, "a lambda"),
        (samples.make_nested(), "is defined inside a function"),
        (samples.badly_wrapped, "a decorator must use functools.wraps"),
        (samples.Service().method, "a bound method"),
        (samples.Service.make, "a bound method"),
        (samples.Service.method, "is a method"),
        (samples.Service, "is a class"),
        (samples.Service(), "an object that can be called"),
        (functools.partial(samples.send, "a"), "is a partial"),
        (print, "is a built-in"),
        ([].append, "is a built-in"),
        (str.upper, "is a built-in"),
        (samples.numbers, "is a generator"),
        (samples.async_numbers, "is a generator"),
        (samples.original, "is not what stands under that name"),
        ("task_samples:send", "Import the function and pass it itself"),
        (None, "None is not a function"),
        (42, "42 is not a function"),
        ({}, "is not a function"),
        (samples, "is not a function"),
    ],
)
def test_what_no_worker_could_import_is_refused(func: Any, reason: str) -> None:
    with pytest.raises(InvalidFunction, match=reason) as caught:
        describe(func)
    assert isinstance(caught.value, TypeError | ValueError)
    assert isinstance(caught.value, FastEdgyError)


def test_a_function_of_the_running_script_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    script = types.ModuleType("__main__")
    exec("def job(): ...", vars(script))
    monkeypatch.setitem(sys.modules, "__main__", script)
    with pytest.raises(InvalidFunction, match="Move it to a module"):
        describe(script.job)


def test_a_function_of_no_module_is_refused() -> None:
    namespace: dict[str, Any] = {"__name__": "not_there"}
    exec("def job(): ...", namespace)
    with pytest.raises(InvalidFunction, match=r"not_there\.job"):
        describe(namespace["job"])


def test_a_closure_has_a_path_that_imports_nothing() -> None:
    found = describe_closure(samples.make_nested())
    assert found.path == "<closure>:make_nested.<locals>.inner"
    assert found.bind((), {}) == ("[]", "{}")
    with pytest.raises(InvalidFunction):
        describe_closure(print)


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [
        (samples.nothing, (), {}),
        (samples.send, ("a", "b"), {}),
        (samples.send, ("a", "b", "c"), {"copies": 2}),
        (samples.send, (), {"to": "a", "subject": "b"}),
        (samples.by_position, (1,), {"third": 3}),
        (samples.needs_keyword, (1,), {"b": 2}),
        (samples.anything, (1, 2), {"a": 3}),
        (samples.injected, (1,), {"urgent": True}),
        (samples.Service.run, (1,), {}),
    ],
)
def test_arguments_that_fit_become_json(func: Any, args: Any, kwargs: Any) -> None:
    described = describe(func)
    texts = described.bind(args, kwargs)
    import json

    assert [json.loads(text) for text in texts] == [list(args), kwargs]


@pytest.mark.parametrize(
    ("func", "args", "kwargs", "reason", "parameter"),
    [
        (samples.nothing, (1,), {}, "1 positional arguments were given, it takes no arg", None),
        (samples.send, ("a",), {}, "the argument 'subject' is missing", "subject"),
        (samples.send, (), {}, "the argument 'to' is missing", "to"),
        (samples.send, ("a", "b", "c", 4), {}, "it takes at most 3", None),
        (samples.send, ("a", "b"), {"to": "c"}, "'to' was given twice", "to"),
        (samples.send, ("a", "b"), {"copys": 1}, r"\(did you mean 'copies'\?\)\. Its", "copys"),
        (samples.send, ("a", "b"), {"zzz": 1}, "it has no parameter 'zzz'", "zzz"),
        (samples.send, ("a", "b"), {"queue": "q"}, r"options go to tasks\.task\(queue=", "queue"),
        (samples.by_position, (), {"first": 1}, "by position only", "first"),
        (samples.by_position, (), {"third": 1}, "the argument 'first' is missing", "first"),
        (samples.needs_keyword, (1,), {}, "the argument 'b' is missing", "b"),
        (samples.needs_keyword, (1,), {"a": 1, "b": 1}, "given twice", "a"),
        (samples.injected, (1,), {"mailer": "x"}, "'mailer' is injected", "mailer"),
        (samples.injected, (1, True), {}, "given by name", None),
        (samples.injected, (), {}, "'order_id' is missing", "order_id"),
        (samples.send, ("a", {1}), {}, "subject: a set cannot travel", "subject"),
        (samples.send, ("a", "b"), {"body": {"x": [b""]}}, r"body\['x'\]\[0\]: a bytes", "body"),
        (samples.send, ("a\x00", "b"), {}, "to: text with a NUL", "to"),
        (samples.send, ("\ud800", "b"), {}, "to: text with a lone surrogate", "to"),
        (samples.send, (2**70, "b"), {}, "to: an integer beyond 64 bits", "to"),
        (samples.send, (math.nan, "b"), {}, "to: nan is not a number", "to"),
        (samples.send, ({1: 2}, "b"), {}, "to: the key 1 is not text", "to"),
        (samples.anything, (1, {2}), {}, r"args\[1\]: a set", "args[1]"),
        (samples.anything, (), {"a\x00": 2}, "NUL", "a\\x00"),
        (samples.anything, (), {"\ud800": 2}, "lone surrogate", "\\ud800"),
    ],
)
def test_arguments_that_do_not_fit_or_travel_are_refused_by_name(
    func: Any, args: Any, kwargs: Any, reason: str, parameter: str | None
) -> None:
    with pytest.raises(InvalidArguments, match=reason) as caught:
        describe(func).bind(args, kwargs)
    assert caught.value.parameter == parameter
    assert isinstance(caught.value, TypeError)
    str(caught.value).encode()


def test_recursive_arguments_are_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidArguments, match="to: is nested too deeply, or contains itself"):
        describe(samples.send).bind((value, "b"), {})


def test_the_quick_check_agrees_with_python() -> None:
    import inspect
    from itertools import product

    functions = [samples.send, samples.by_position, samples.needs_keyword, samples.anything,
                 samples.nothing, samples.typed_rest]  # fmt: skip
    names = ["to", "subject", "first", "second", "third", "a", "b", "zzz"]
    for func, given, one, two in product(functions, range(5), names, names):
        args, kwargs = tuple(range(given)), {one: 1, two: 2}
        for keywords in ({}, kwargs):
            try:
                inspect.signature(func).bind(*args, **keywords)
                fits = True
            except TypeError:
                fits = False
            assert describe(func)._shape.fits(args, keywords) is fits, (func, args, keywords)


@pytest.mark.parametrize("func", [samples.injected, samples.annotated_injected])
def test_injected_parameters_come_from_the_container(func: Any) -> None:
    found = describe(func)
    assert list(found.injected) == ["mailer"]
    mailer = samples.Mailer()
    register_service(mailer, samples.Mailer, force=True)
    try:
        assert found.services() == {"mailer": mailer}
    finally:
        unregister_service(samples.Mailer)
    assert describe(samples.send).services() == {}


@pytest.mark.parametrize(
    ("given", "args", "kwargs", "key"),
    [
        (NO_OPTIONS, (7,), {}, "report:7:pdf"),
        (NO_OPTIONS, (), {"report_id": 7, "kind": "xls"}, "report:7:xls"),
        (TaskOptions(unique_key="as it {is}"), (7,), {}, "as it {is}"),
    ],
)
def test_a_unique_key_is_filled_from_the_arguments(
    given: TaskOptions, args: Any, kwargs: Any, key: str
) -> None:
    assert describe(samples.report).unique_key(given, args, kwargs) == key
    assert describe(samples.send).unique_key(NO_OPTIONS, args, kwargs) is None


@task(unique_key="{order.id}")
def keyed(order: Any) -> None: ...


def test_a_unique_key_that_cannot_be_filled_is_an_error() -> None:
    with pytest.raises(InvalidOption, match=r"cannot be filled: .* these arguments: order\."):
        describe(keyed).unique_key(NO_OPTIONS, ({"id": 1},), {})


def test_what_is_redacted_is_hidden_by_position_and_by_name() -> None:
    found = describe(samples.report)
    assert found.redacted([1, "pdf", "pw"], {}) == ([1, "pdf", REDACTED], {})
    assert found.redacted([1], {"password": "pw", "x": 2}) == ([1], {"password": REDACTED, "x": 2})
    assert describe(samples.send).redacted(["a"], {"b": 1}) == (["a"], {"b": 1})


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (OSError(), True),
        (ConnectionError(), True),
        (FileNotFoundError(), False),
        (KeyError(), False),
    ],
)
def test_which_exceptions_are_retried(error: Exception, retried: bool) -> None:
    assert describe(samples.report).retries(error) is retried
    assert describe(samples.send).retries(error)


@task(backoff=lambda attempt: -1)
def bad_backoff() -> None: ...


@task(backoff=lambda attempt: 1 / 0)
def failing_backoff() -> None: ...


def test_the_wait_before_a_retry_is_the_functions_or_the_settings(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = QueuedTaskConfig(retry_backoff=10, retry_backoff_max=100)
    assert [describe(samples.report).delay_before_retry(n, config) for n in (1, 2, 3)] == [1, 2, 2]
    for func in (samples.send, bad_backoff, failing_backoff):
        assert 9 <= describe(func).delay_before_retry(1, config) <= 10
        assert 90 <= describe(func).delay_before_retry(9, config) <= 100
    assert "its back-off failed for attempt 9" in caplog.text
