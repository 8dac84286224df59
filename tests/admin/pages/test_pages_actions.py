"""What a person does in the dashboard, and what comes of it in the queue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from board import Board, Visitor
from helpers import wait_until


@pytest.fixture(autouse=True)
def clean_board(board: Board) -> Iterator[None]:
    board.clear()
    yield
    board.clear()


def states(board: Board, name: str) -> list[str]:
    """The states of all tasks of a name, by their ids."""
    rows = board.fetch("SELECT state FROM queued_tasks WHERE name LIKE '%' || $1 ORDER BY id", name)
    return [row["state"] for row in rows]


def test_filters_are_a_sentence_and_the_address(ann: Visitor, board: Board) -> None:
    failed = board.add("charge", 1)
    board.add("send_email", "ann@example.org", "Welcome")
    board.reaches(failed, "failed")
    ann.open("/tasks")
    ann.page.keyboard.press("/")
    ann.page.keyboard.type("charge")
    ann.page.keyboard.press("Enter")
    ann.page.wait_for_url("**/tasks?name=charge")
    ann.page.select_option("select[name=state]", "failed")
    ann.page.wait_for_url("**/tasks?state=failed&name=charge")

    ann.counts("#rows tr", 1)
    ann.sees("1 failed task named charge.")
    ann.page.click("text=Clear")
    ann.counts("#rows tr", 2)


def test_new_rows_are_announced_and_shown_when_wanted(ann: Visitor, board: Board) -> None:
    first = board.add("resize", "a.png", 1)
    board.reaches(first, "done")
    ann.open("/tasks?name=resize")
    board.add("resize", "b.png", 1, times=2)

    ann.sees("2 new, show")
    ann.counts("#rows tr", 1)
    ann.page.keyboard.press("n")
    ann.counts("#rows tr", 3)


def test_a_row_changes_in_place(ann: Visitor, board: Board) -> None:
    id = board.add("import_rows", 10, 1.5)
    ann.open("/tasks?name=import_rows")
    ann.page.check(f'input[value="{id}"]')

    ann.page.wait_for_selector(f'tr[data-key="{id}"][data-state=done]')
    assert ann.page.is_checked(f'input[value="{id}"]')


def test_keys_choose_rows_and_retry_them_after_a_preview(ann: Visitor, board: Board) -> None:
    ids = [board.add("charge", number) for number in range(3)]
    for id in ids:
        board.reaches(id, "failed")
    runs = [row["run"] for row in board.fetch("SELECT run FROM queued_tasks ORDER BY id")]
    ann.open("/tasks?name=charge")
    for key in "jxjxr":
        ann.page.keyboard.press(key)
        ann.page.evaluate("refresh()")  # a live update between two keys changes nothing

    ann.sees("Retry these tasks?")
    ann.sees("2 failed")
    assert states(board, "charge") == ["failed"] * 3
    ann.page.keyboard.press("Enter")
    ann.sees("2 tasks retried.")

    def check() -> None:
        rows = board.fetch("SELECT run, state FROM queued_tasks ORDER BY id DESC")
        again = [row["run"] > before for row, before in zip(rows, reversed(runs), strict=True)]
        assert again == [True, True, False]

    wait_until(check)


def test_all_that_fit_are_cancelled_and_put_back(ann: Visitor, board: Board) -> None:
    board.add("send_email", "ann@example.org", "Later", times=60, delay=3600)
    board.add("resize", "other.png", 1, delay=3600)
    ann.open("/tasks?name=send_email")
    ann.page.check("#every")
    ann.page.click("button[value=cancel]")
    ann.sees("60 scheduled")
    ann.page.click("text=Cancel them")
    ann.sees("60 tasks cancelled.")
    assert set(states(board, "send_email")) == {"cancelled"}
    assert states(board, "resize") == ["scheduled"]

    ann.page.click("text=Undo")
    ann.sees("60 tasks put back.")
    assert set(states(board, "send_email")) == {"scheduled"}
    ann.page.click("dialog >> text=Close")
    ann.page.wait_for_selector("dialog", state="hidden")


def test_what_is_left_alone_stays(ann: Visitor, board: Board) -> None:
    board.add("send_email", "ann@example.org", "Later", delay=3600)
    ann.open("/tasks")
    ann.page.check("#check-all")
    ann.page.click("button[value=cancel]")
    ann.page.click("text=Leave it")

    assert states(board, "send_email") == ["scheduled"]


def test_many_tasks_are_moved_reprioritised_and_deleted(ann: Visitor, board: Board) -> None:
    board.add("send_email", "ann@example.org", "Later", times=2, delay=3600)
    ann.open("/tasks")
    for action, field, value, said in (
        ("move", "queue", "quiet", "2 tasks moved."),
        ("reprioritise", "priority", "7", "2 tasks changed."),
        ("cancel", None, None, "2 tasks cancelled."),
        ("delete", None, None, "2 tasks deleted."),
    ):
        ann.page.check("#check-all")
        ann.page.click(f"button[value={action}]")
        ann.page.wait_for_selector("dialog button.main")
        if field:
            ann.page.fill(f"dialog input[name={field}]", value or "")
        ann.page.click("dialog button.main")
        ann.sees(said)
        if action == "reprioritise":
            rows = board.fetch("SELECT queue, priority FROM queued_tasks")
            assert {(row["queue"], row["priority"]) for row in rows} == {("quiet", 7)}
        with ann.page.expect_navigation():
            ann.page.click("dialog >> text=Close")
    assert states(board, "send_email") == []


def test_one_task_is_changed_cancelled_retried_copied_and_deleted(
    ann: Visitor, board: Board
) -> None:
    id = board.add("send_email", "ann@example.org", "Later", "s3cret", delay=3600)
    ann.open(f"/tasks/{id}")
    ann.sees("It is scheduled")
    ann.page.fill("input[name=priority]", "3")
    ann.page.click("text=Set priority")
    ann.sees("This task has its new priority.")
    ann.page.fill("#queue", "quiet")
    ann.page.click("text=Move to queue")
    ann.sees("This task is in its new queue.")
    (row,) = board.fetch("SELECT queue, priority FROM queued_tasks")
    assert tuple(row) == ("quiet", 3)

    ann.page.keyboard.press("c")
    ann.sees("This task is cancelled, or was asked to stop.")
    assert "did=" not in ann.page.url
    ann.page.keyboard.press("r")
    ann.sees("This task is in the line again.")
    board.reaches(id, "done")

    ann.page.click("text=Run a copy")
    ann.sees("This is the copy.")
    ann.page.wait_for_selector("#head .state.done")
    rows = board.fetch("SELECT args, queue FROM queued_tasks ORDER BY id")
    assert tuple(rows[0]) == tuple(rows[1])

    ann.open(f"/tasks/{id}")
    ann.page.click("text=Delete")
    ann.sees("The task was deleted.")
    assert states(board, "send_email") == ["done"]


def test_a_running_task_is_asked_to_stop(ann: Visitor, board: Board) -> None:
    id = board.add("hold", 60.0)
    board.reaches(id, "doing")
    ann.open("/workers")
    square = ann.page.locator(f'.squares a[href$="{id}"]')
    square.hover()
    assert "hold" in ann.page.inner_text(".tip")
    square.click()
    ann.page.wait_for_url(f"**/tasks/{id}")
    ann.page.click("text=Cancel")
    ann.page.wait_for_selector("#head .state.cancelled")
    board.reaches(id, "cancelled")


def test_a_button_neither_turns_into_another_one_nor_goes_for_a_moment(
    ann: Visitor, board: Board
) -> None:
    """It may be pressed in that moment."""
    id = board.add("hold", 400.0)
    board.reaches(id, "doing")
    ann.open(f"/tasks/{id}")
    pressed = ann.page.query_selector("#actions form:has-text('Cancel') button")
    ann.page.evaluate(
        """() => {
            window.gone = [];
            const note = (node) => window.gone.push(node.textContent.trim());
            const each = (changes) => changes.forEach((it) => it.removedNodes.forEach(note));
            const actions = document.getElementById("actions");
            new MutationObserver(each).observe(actions, {childList: true});
        }"""
    )

    # As if another worker had this run, so that "Cancel" goes before the task has ended.
    board.fetch("UPDATE queued_tasks SET run = run + 1, cancel_requested = true")
    ann.page.wait_for_selector("#actions >> text=Retry")

    assert pressed.text_content() == "Cancel"
    gone = ann.page.evaluate("window.gone")
    assert "Cancel" in gone
    assert not {"Run a copy", "Audit"} & {*gone}, "they stay where they are"


def test_a_paused_queue_starts_nothing_until_it_is_resumed(ann: Visitor, board: Board) -> None:
    first = board.add("resize", "a.png", 1)
    board.reaches(first, "done")
    ann.open("/queues")
    row = ann.page.locator('tr[data-key="images"]')
    row.get_by_role("button", name="Pause").click()
    ann.sees("Queue images is paused.")
    id = board.add("resize", "b.png", 1)
    ann.open(f"/tasks/{id}")
    ann.sees("paused")
    board.reaches(id, "enqueued")

    ann.open("/queues")
    row.get_by_role("button", name="Resume").click()
    ann.sees("Queue images goes on.")
    board.reaches(id, "done")
    notes = board.fetch("SELECT actor, source FROM queued_task_audit WHERE action LIKE 'queue.%'")
    assert {tuple(note) for note in notes} == {("ann", "page")}


def test_a_queue_gets_limits_and_loses_them(ann: Visitor, board: Board) -> None:
    board.reaches(board.add("resize", "a.png", 1), "done")
    ann.open("/queues")
    row = ann.page.locator('tr[data-key="images"]')
    for most, rate in (("3", "2.5"), ("", "")):
        row.locator("input[name=max_running]").fill(most)
        row.locator("input[name=rate]").fill(rate)
        row.get_by_role("button", name="Set").click()
        ann.sees("The limits of queue images are set.")
        found = board.fetch(
            "SELECT max_running, rate FROM queued_task_queues WHERE name = 'images'"
        )
        assert [tuple(each) for each in found] == [
            (int(most) if most else None, float(rate) if rate else None)
        ]


def test_a_schedule_is_paused_resumed_and_run(ann: Visitor, board: Board) -> None:
    ann.open("/schedules")
    ann.counts("#day .lane svg", 2)
    row = ann.page.locator('tr[data-key="sync stock"]')
    row.get_by_role("button", name="Pause").click()
    ann.sees("Schedule sync stock is paused.")
    ann.counts("#day .lane svg", 1)
    row.get_by_role("button", name="Resume").click()
    ann.sees("Schedule sync stock goes on.")
    row.get_by_role("button", name="Run now").click()
    ann.sees("Schedule sync stock runs now.")
    assert "sync_stock" in ann.page.inner_text("h1")
    ann.page.wait_for_selector("#head .state.done")


def test_a_timetable_is_changed_after_a_preview(ann: Visitor, board: Board) -> None:
    ann.open("/schedules")
    ann.page.locator('tr[data-key="nightly report"]').get_by_role("link", name="Edit").click()
    times = ann.page.locator("ol li")
    ann.counts("ol li", 10)
    assert "02:00:00 CE" in times.first.inner_text()
    ann.page.fill("input[name=when]", "0 3 * *")
    ann.page.click("text=Preview")
    ann.page.wait_for_selector("[role=alert]")
    ann.counts("text=Save", 0)
    ann.page.fill("input[name=when]", "30 4 * * *")
    ann.page.click("text=Preview")
    ann.page.wait_for_selector("button:has-text('Save')")
    assert "04:30:00 CE" in times.first.inner_text()
    query = "SELECT cron FROM queued_task_schedules WHERE name = 'nightly report'"
    assert board.fetch(query)[0]["cron"] == "0 2 * * *"

    ann.page.click("button:has-text('Save')")
    ann.sees("Schedule nightly report was changed.")
    assert board.fetch(query)[0]["cron"] == "30 4 * * *"


def test_an_open_breaker_shows_whom_it_holds_and_is_closed(ann: Visitor, board: Board) -> None:
    board.add("pay", 1, times=8)

    def opened() -> None:
        rows = board.fetch("SELECT state FROM queued_task_breakers WHERE name = 'payments'")
        assert [row["state"] for row in rows] == ["open"]

    wait_until(opened)
    ann.open("/breakers")
    row = ann.page.locator('tr[data-key="payments"]')
    assert "ConnectionError" in row.inner_text()
    row.get_by_role("button", name="Close").click()
    ann.sees("Breaker payments is closed")


def test_the_doctor_applies_a_cure(ann: Visitor, board: Board) -> None:
    board.fetch("ALTER TABLE queued_tasks SET (autovacuum_enabled = off)")
    ann.open("/doctor")
    cure = ann.page.locator("section:has-text('utovacuum')").get_by_role("button", name="Do it")
    cure.first.click()
    ann.page.wait_for_selector(".flash")

    (row,) = board.fetch("SELECT reloptions FROM pg_class WHERE relname = 'queued_tasks'")
    assert "autovacuum_enabled=off" not in row["reloptions"]


def test_who_may_only_read_has_no_buttons(bob: Visitor, board: Board) -> None:
    board.add("send_email", "ann@example.org", "Later", delay=3600)
    for path in ("/tasks", "/queues", "/schedules", "/breakers"):
        bob.open(path)
        bob.counts("main form[method=post]", 0)
        bob.counts("main input[type=checkbox]", 0)
    bob.sees("who may read and not change")


def test_the_keys_are_listed(ann: Visitor) -> None:
    ann.open("/queues")
    ann.page.keyboard.press("?")
    ann.sees("retry, cancel what is chosen or shown")
    ann.page.keyboard.press("Escape")
    assert ann.page.locator("#keys").is_hidden()


def test_a_session_ends_with_the_sign_out(bob: Visitor) -> None:
    bob.open("/queues")
    bob.page.click("text=Sign out")
    bob.page.wait_for_selector("input[name=token]")
    bob.wrong = [each for each in bob.wrong if "401" not in each]
