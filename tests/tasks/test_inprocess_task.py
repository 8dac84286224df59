"""One task: its end, its error handler, its time limit, its retries and what it says."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from fastedgy.dependencies import Inject, get_container_service
from fastedgy.errors import InvalidOption, TaskCancelled, TaskFailed
from fastedgy.queued_task import Discard, get_current_task, getLogger, set_context
from fastedgy.tasks import Task, TaskConfig, TasksScheduler, task_counts
from fastedgy.testing import tasks_over

said: list[Any] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    said.clear()


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def double_in_thread(number: int) -> int:
    said.append(threading.current_thread())
    return 2 * number


async def fail(message: str = "no") -> int:
    raise ValueError(message)


class Attempts:
    """A function that fails until it is called for the `good`th time."""

    def __init__(self, good: int) -> None:
        self.good = good
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        if self.calls < self.good:
            raise ConnectionError(f"call {self.calls}")
        return self.calls


async def test_wait_gives_the_result(tasks: TasksScheduler) -> None:
    task = tasks.schedule(double, 4)
    assert task.state == "running" or not task.started.is_set()
    assert await task.wait(timeout=30) == 8
    assert await task.wait() == 8
    assert task.state == "done"
    assert task.started.is_set()
    assert (task.func, task.args, task.kwargs) == (double, (4,), {})


async def test_a_sync_function_runs_in_a_thread(tasks: TasksScheduler) -> None:
    assert await tasks.schedule(double_in_thread, 4).wait(30) == 8
    assert said != [threading.current_thread()]


async def test_a_sync_function_that_returns_a_coroutine_is_awaited(tasks: TasksScheduler) -> None:
    assert await tasks.schedule(lambda: double(4)).wait(30) == 8


async def test_wait_raises_the_tasks_own_exception(
    tasks: TasksScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    task = tasks.schedule(fail, "no such user")
    with pytest.raises(ValueError, match="no such user"):
        await task.wait(30)
    assert task.state == "failed"
    assert "test_inprocess_task.fail failed" in caplog.text
    assert "no such user" in caplog.text


async def test_wait_gives_up_when_its_time_is_over(tasks: TasksScheduler) -> None:
    gate = asyncio.Event()
    task = tasks.schedule(gate.wait)
    with pytest.raises(TimeoutError):
        await task.wait(timeout=0.01)
    gate.set()
    assert await task.wait(30) is True


async def test_a_failing_task_never_touches_its_neighbours(
    tasks: TasksScheduler, app: FastAPI
) -> None:
    good = tasks.schedule(double, 1)
    tasks.schedule(fail)
    assert await good.wait(30) == 2
    assert await tasks.schedule(double, 2).wait(30) == 4
    await tasks_over(app)


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_what_would_end_the_server_ends_the_task_only(
    tasks: TasksScheduler, raised: BaseException
) -> None:
    async def stop() -> None:
        raise raised

    is_cancel = isinstance(raised, asyncio.CancelledError)
    task = tasks.schedule(stop)
    with pytest.raises(TaskCancelled if is_cancel else TaskFailed):
        await task.wait(30)
    assert await tasks.schedule(double, 2).wait(30) == 4


async def on_error(task: Task, error: Exception) -> None:
    said.append(("async", task.args, str(error)))


def on_error_in_thread(task: Task, error: Exception) -> None:
    said.append(("sync", task.args, str(error)))


def fail_in_thread(message: str) -> None:
    raise ValueError(message)


@pytest.mark.parametrize("func", [fail, fail_in_thread])
@pytest.mark.parametrize("handler", [on_error, on_error_in_thread])
async def test_the_error_handler_gets_the_task_and_its_exception(
    tasks: TasksScheduler, app: FastAPI, func: Any, handler: Any
) -> None:
    tasks.task(on_error=handler).schedule(func, "no")
    await tasks_over(app)
    assert said == [("async" if handler is on_error else "sync", ("no",), "no")]


async def test_an_error_in_an_error_handler_is_logged_and_harms_nothing(
    tasks: TasksScheduler, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(task: Task, error: Exception) -> None:
        raise RuntimeError("the handler is broken")

    good = tasks.schedule(double, 1)
    tasks.task(on_error=broken, name="mail").schedule(fail)
    await tasks_over(app)
    assert good.state == "done"
    assert "The error handler of the in-process task mail failed" in caplog.text
    assert "the handler is broken" in caplog.text


async def test_called_by_hand_it_returns_none_after_an_error_and_calls_its_handler() -> None:
    assert await Task(double, (3,))() == 6
    assert await Task(fail, config=TaskConfig(on_error=on_error))() is None
    assert said == [("async", (), "no")]


async def test_called_in_its_error_handler_it_raises_and_calls_no_handler(
    tasks: TasksScheduler, app: FastAPI
) -> None:
    attempts = Attempts(good=4)

    async def again(task: Task, error: Exception) -> None:
        for _ in range(5):
            try:
                said.append(await task())
                return
            except ConnectionError as another:
                said.append(str(another))

    tasks.task(on_error=again).schedule(attempts)
    await tasks_over(app)
    assert said == ["call 2", "call 3", 4]


async def test_a_timeout_ends_the_attempt(tasks: TasksScheduler, app: FastAPI) -> None:
    task = tasks.task(timeout=0.01, on_error=on_error, name="slow").schedule(asyncio.Event().wait)
    with pytest.raises(TimeoutError, match=r"slow did not end within 0\.01 s"):
        await task.wait(30)
    await tasks_over(app)
    assert said == [("async", (), "slow did not end within 0.01 s.")]
    assert task_counts(app)["slow"].timeouts == 1


async def test_a_sync_function_is_given_up_at_its_timeout(
    tasks: TasksScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()
    task = tasks.task(timeout=0.01).schedule(gate.wait)
    with pytest.raises(TimeoutError):
        await task.wait(30)
    assert "its thread goes on until it ends" in caplog.text
    gate.set()


async def test_retries_call_again_after_a_back_off(tasks: TasksScheduler, app: FastAPI) -> None:
    attempts = Attempts(good=3)
    task = tasks.task(retries=2, backoff=0.001, on_error=on_error, name="call").schedule(attempts)
    assert await task.wait(30) == 3
    await tasks_over(app)
    assert said == []
    assert task_counts(app)["call"].retried == 2


async def test_the_error_handler_is_called_once_after_the_last_attempt(
    tasks: TasksScheduler, app: FastAPI
) -> None:
    attempts = Attempts(good=9)
    tasks.task(retries=2, backoff=[0.001, 0.002], on_error=on_error).schedule(attempts)
    await tasks_over(app)
    assert attempts.calls == 3
    assert said == [("async", (), "call 3")]


async def test_discard_spends_no_retries(tasks: TasksScheduler) -> None:
    calls = []

    async def give_up() -> None:
        calls.append(1)
        raise Discard("there is no such user")

    with pytest.raises(Discard):
        await tasks.task(retries=5, backoff=0).schedule(give_up).wait(30)
    assert calls == [1]


def test_the_back_off_doubles_from_one_second() -> None:
    config = TaskConfig(retries=3)
    for attempt, seconds in enumerate((1, 2, 4, 8), 1):
        assert seconds * 0.9 <= config.delay_before_retry(attempt) <= seconds


async def test_context_and_logs_stay_in_memory(tasks: TasksScheduler) -> None:
    async def work() -> None:
        set_context("progress.percent", 50)
        getLogger("shop").info("half way", extra={"order": 7})
        run = get_current_task()
        assert run is not None
        said.append(run.name)

    task = tasks.task(name="import").schedule(work)
    await task.wait(30)
    assert task.context == {"progress": {"percent": 50}}
    assert [(line[0], line[2], line[3]) for line in task.logs] == [("info", "shop", "half way")]
    assert said == ["import"]


class Mailer:
    def send(self, address: str) -> str:
        return f"sent to {address}"


async def test_services_are_injected(tasks: TasksScheduler) -> None:
    async def mail(address: str, mailer: Mailer = Inject(Mailer)) -> str:
        return mailer.send(address)

    get_container_service().reset()
    assert await tasks.schedule(mail, "a@example.org").wait(30) == "sent to a@example.org"


async def test_a_task_may_schedule_tasks(tasks: TasksScheduler, app: FastAPI) -> None:
    async def outer(tasks: TasksScheduler) -> int:
        return await tasks.schedule(double, 5).wait(30)

    assert await tasks.schedule(outer, tasks).wait(30) == 10
    await tasks_over(app)


async def test_counts_and_durations_are_kept_by_name(tasks: TasksScheduler, app: FastAPI) -> None:
    for number in range(3):
        tasks.schedule(double, number)
    tasks.task(name="mail").schedule(fail)
    await tasks_over(app)

    counts = task_counts(app)
    assert counts["test_inprocess_task.double"].done == 3
    assert counts["test_inprocess_task.double"].mean >= 0
    assert (counts["mail"].scheduled, counts["mail"].failed, counts["mail"].running) == (1, 1, 0)


async def test_names_made_of_ids_do_not_fill_the_memory(
    tasks: TasksScheduler, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastedgy.tasks.counts.MOST_NAMES", 3)
    for number in range(5):
        tasks.task(name=f"payment_{number}").schedule(double, number)
    await tasks_over(app)
    assert list(task_counts(app)) == [
        "payment_0", "payment_1", "payment_2", "test_inprocess_task.double",
    ]  # fmt: skip


def test_merge_lets_the_other_win_where_it_says_something() -> None:
    ours = TaskConfig(name="mail", shield=True, retries=2)
    theirs = TaskConfig(shield=False, on_error=on_error)
    merged = ours.merge(theirs)
    assert merged == TaskConfig(name="mail", shield=False, on_error=on_error, retries=2)
    assert ours == TaskConfig(name="mail", shield=True, retries=2)
    assert (ours.shielded, merged.shielded, TaskConfig().shielded) == (True, False, False)


async def test_the_applications_defaults_hold_at_all_moments(app: FastAPI) -> None:
    from fastedgy.tasks.install import runner_of

    runner = runner_of(app)
    runner.config = TaskConfig(shield=True, name="all")
    tasks = TasksScheduler(runner)
    for moment in (tasks, tasks.after_route, tasks.after_response):
        assert moment.schedule(double, 1).config == TaskConfig(shield=True, name="all")
        assert moment.task(shield=False).schedule(double, 1).config.shielded is False
    tasks._drop()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"max_retries": 3}, "Did you mean retries="),
        ({"shild": True}, "Did you mean shield="),
        ({"delay": 3}, "QueuedTasks"),
        ({"shutdown_timeout": 3}, "belongs to the application"),
        ({"timeout": 0}, "it must be above 0"),
        ({"retries": -1}, "at least 0"),
        ({"limit": 0}, "at least 1"),
        ({"shield": 1}, "True or False"),
        ({"name": " "}, "must be text"),
        ({"on_error": "mail"}, "must be a function"),
        ({"backoff": "slow"}, "not a back-off"),
    ],
)
async def test_options_that_make_no_sense_are_refused(
    tasks: TasksScheduler, words: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidOption, match=sentence):
        tasks.after_response.task(**words)


def test_the_page_names_every_option() -> None:
    page = (Path(__file__).parents[2] / "docs" / "in-process-tasks.md").read_text()
    for field in fields(TaskConfig):
        assert f"`{field.name}" in page or f"{field.name}=" in page, field.name
