"""Draining, whole trees, all cures at once and the audit, in a browser and without scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from board import Board, Visitor
from helpers import wait_until


@pytest.fixture(autouse=True)
def clean_board(board: Board) -> Iterator[None]:
    board.clear()
    yield
    board.clear()


def running(board: Board) -> list[Any]:
    """The workers that take tasks."""
    return board.fetch(
        "SELECT * FROM queued_task_workers"
        " WHERE state = 'running' AND drain IS NULL AND concurrency > 0"
    )


def test_a_worker_is_drained_after_a_look_and_another_one_comes(ann: Visitor, board: Board) -> None:
    board.has_workers(2)
    known = {row["id"] for row in running(board)}
    ann.open("/workers")
    process = ann.page.locator(".process").first
    id = process.get_attribute("data-key")
    process.get_by_role("button", name="Drain").click()
    ann.sees("takes no more tasks and ends; its supervisor starts another one.")
    assert {row["id"] for row in running(board)} == known, "it was only asked"
    ann.page.click("dialog button.main")
    ann.sees("1 worker asked to drain.")

    def replaced() -> None:
        (row,) = board.fetch("SELECT * FROM queued_task_workers WHERE id = $1", id)
        assert (row["state"], row["exit_reason"]) == ("stopped", "ann asked for it")
        assert len({row["id"] for row in running(board)} - known) == 1

    wait_until(replaced)
    board.has_workers(2)
    ann.open("/workers")
    ann.page.get_by_role("button", name="Drain all").click()
    ann.sees("nobody starts others.")
    ann.page.click("text=Leave it")
    assert board.fetch("SELECT FROM queued_task_workers WHERE drain = 'supervisor'") == []


def test_a_tree_is_cancelled_and_retried_from_its_page(ann: Visitor, board: Board) -> None:
    root = board.add("publish", "winter", delay=3600)
    below = board.fetch(
        "INSERT INTO queued_tasks (id, name, function, state, queue, waiting_on)"
        " SELECT gen_random_uuid(), 'board_tasks.build_page', 'board_tasks:build_page', 'waiting',"
        " 'images', 1 FROM generate_series(1, 3) RETURNING id"
    )
    board.fetch(
        "WITH linked AS (INSERT INTO queued_task_links (parent_id, child_id)"
        " SELECT $1, id FROM unnest($2::uuid[]) AS id)"
        " UPDATE queued_tasks SET has_children = true WHERE id = $1",
        root, [row["id"] for row in below],
    )  # fmt: skip
    ann.open(f"/tasks/{root}")
    ann.page.click("text=Cancel the tree")
    ann.sees("Cancels 4 tasks.")
    ann.sees("3 waiting")
    ann.page.click("dialog button.main")
    ann.sees("4 tasks cancelled, or asked to stop.")
    states = "SELECT state, count(*) AS number FROM queued_tasks GROUP BY state ORDER BY state"
    assert [tuple(row) for row in board.fetch(states)] == [("cancelled", 4)]

    ann.open(f"/tasks/{root}")
    ann.page.click("text=Retry the tree")
    ann.sees("Retries 4 tasks.")
    ann.page.click("dialog button.main")
    ann.sees("4 tasks in the line again.")
    ann.page.click("#actions >> text=Audit")
    ann.counts("tbody tr", 2)
    ann.sees("task.retry_tree")


def test_all_cures_are_applied_at_once(ann: Visitor, board: Board) -> None:
    for table in ("audit", "events"):
        board.fetch(f"ALTER TABLE queued_task_{table} SET (autovacuum_enabled = off)")
    ann.open("/doctor")
    ann.page.click("text=/Apply all . cures/")
    ann.sees("Apply the cures?")
    ann.page.click("dialog button.main")
    ann.sees("cures applied.")

    rows = board.fetch(
        "SELECT reloptions FROM pg_class WHERE relname IN ('queued_task_audit',"
        " 'queued_task_events')"
    )
    assert not [row for row in rows if "autovacuum_enabled=off" in (row["reloptions"] or ())]


def test_the_audit_is_filtered_by_links_and_read_page_by_page(board: Board, chromium: Any) -> None:
    board.fetch("DELETE FROM queued_task_audit")
    board.fetch(
        "INSERT INTO queued_task_audit (id, actor, source, action, target, details)"
        " SELECT gen_random_uuid(), CASE WHEN n % 2 = 0 THEN 'ann' ELSE 'carl' END, 'api',"
        " 'queue.pause', 'queue:mail ' || n, '{\"n\": 1}' FROM generate_series(1, 120) AS n"
    )
    # Without scripts, as all lists.
    with Visitor.entering(board, chromium, java_script_enabled=False) as visitor:
        visitor.sign_in("read-token-of-the-tests")
        visitor.page.click("nav >> text=Audit")
        visitor.counts("tbody tr", 50)
        visitor.page.click("tbody >> text=carl >> nth=0")
        visitor.counts("tbody tr >> text=ann", 0)
        visitor.counts("tbody tr", 50)
        visitor.page.click("text=Older")
        visitor.counts("tbody tr", 10)
        assert "actor=carl" in visitor.page.url
        visitor.page.click("text=Newest")
        visitor.page.fill("#a-target", "queue:mail 7")
        visitor.page.click("button:has-text('Show')")
        visitor.counts("tbody tr", 1)
        visitor.page.fill("#a-action", "schedule.")
        visitor.page.click("button:has-text('Show')")
        visitor.sees("Nothing of that kind was done.")
        visitor.counts("tbody tr", 0)
    board.fetch("DELETE FROM queued_task_audit")
