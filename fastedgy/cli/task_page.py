"""The page of one task in text, and the drawing of a family: pure functions of what was read."""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from rich.text import Text
from rich.tree import Tree

from fastedgy.cli.output import STATE_STYLES, count, duration, shown, state_text
from fastedgy.cli.tables import log_line, took
from fastedgy.store.details import Family, LogRow, TaskDetails, began
from fastedgy.store.find import TaskRow
from fastedgy.store.steps import StepRow
from fastedgy.wording import moment_of

_BAR = 20
_SIBLINGS = 20
_LONG = 2_000


def task_page(
    task: TaskDetails, logs: Sequence[LogRow], why: Sequence[Text], *, now: datetime
) -> list[Text]:
    """The lines of `queue show`. `logs` are the last ones; `why`: what `explain` says."""
    lines = [_headline(task, now=now), *why]
    if (bar := progress(task.context)) is not None:
        lines.append(bar)
    lines += _section("Task", _facts(task))
    lines += _section("Timeline", _timeline(task))
    lines += _section("Steps", map(_step, task.steps))
    if task.error_message or task.error_type:
        what = f"{task.error_type or 'Error'}: {shown(task.error_message or '', lines=True)}"
        trace = shown(task.error_traceback or "", lines=True).rstrip().splitlines()
        message = [Text(line, style="red3") for line in what.splitlines()]
        lines += _section("Error", [*message, *map(Text, trace)])
    if task.result is not None:
        lines += _section("Result", _json_lines(task.result))
    if task.context:
        lines += _section("Context", _json_lines(task.context))
    if logs:
        lines += _section("Log", [log_line(log) for log in logs])
    lines += _section("Family", _relatives(task))
    return lines


def _step(step: StepRow) -> Text:
    """One step, wait or compensation; not its result, which may be anybody's secret."""
    line = Text(f"{shown(step.name)}  ").append(f"{step.kind} {step.state}", style="bold")
    if step.attempts > 1:
        line.append(f" · {count(step.attempts, 'call')}")
    if step.event is not None:
        line.append(f" · event {shown(step.event)}")
    if step.state == "waiting" and step.date_due is not None:
        line.append(f" · until {step.date_due:%Y-%m-%d %H:%M:%S} UTC")
    if step.error_type is not None:
        line.append(f" · {step.error_type}: {shown(step.error_message or '')}", style="red3")
    return line


def _section(title: str, lines: Iterable[Text]) -> list[Text]:
    body = [Text("  ").append_text(line) for line in lines]
    return [Text(), Text(title, style="bold"), *body] if body else []


def _headline(task: TaskDetails, *, now: datetime) -> Text:
    head = Text(call(task), style="bold").append("  ").append_text(state_text(task.state))
    head.append(f" · attempt {task.attempt} of {task.max_retries + 1}")
    if task.worker and task.state == "doing":
        head.append(f" · worker {shown(task.worker)}")
    if (seconds := took(task, now=now)) is not None:
        head.append(f" · {duration(seconds)}")
    return head


def call(task: TaskDetails) -> str:
    """The task as its author would write the call."""
    given = task.args if isinstance(task.args, list) else [task.args]
    named = task.kwargs if isinstance(task.kwargs, Mapping) else {}
    parts = [json.dumps(value, ensure_ascii=False) for value in given]
    parts += [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in named.items()]
    text = shown(", ".join(parts))
    return f"{shown(task.name)}({text if len(text) <= 200 else text[:199] + '…'})"


def progress(context: object) -> Text | None:
    """A bar for `set_context("progress", 63)` (0 to 100), with the stage where one is set."""
    if not isinstance(context, Mapping):
        return None
    done = context.get("progress")
    if isinstance(done, bool) or not isinstance(done, int | float):
        return None
    share = min(1.0, max(0.0, done / 100))
    filled = round(share * _BAR)
    bar = Text("[").append("█" * filled, style=STATE_STYLES["doing"]).append("░" * (_BAR - filled))
    bar.append(f"] {share * 100:.0f} %")
    if isinstance(stage := context.get("stage"), str):
        bar.append(f"  stage: {shown(stage)}")
    return bar


def _facts(task: TaskDetails) -> list[Text]:
    facts = {
        "id": task.id,
        "function": task.function,
        "queue": task.queue,
        "priority": task.priority,
        "timeout": None if task.timeout is None else duration(task.timeout),
        "unique key": task.unique_key,
        "lost processes": task.losses or None,
        "on parent failure": task.on_parent_failure if task.parent_count else None,
    }
    return [
        Text(f"{name:18}").append(shown(value))
        for name, value in facts.items()
        if value is not None
    ]


def _timeline(task: TaskDetails) -> list[Text]:
    events: list[tuple[datetime | None, str]] = [(task.date_created, "created")]
    for entry in task.history if isinstance(task.history, list) else []:
        if isinstance(entry, Mapping):
            events += _past_run(entry)
    if task.state == "scheduled":
        events.append((task.date_due, "due"))
    if task.date_enqueued and task.state not in ("scheduled", "waiting"):
        events.append((task.date_enqueued, "enqueued"))
    if start := began(task):
        events.append((start, f"started (attempt {task.attempt})"))
    if task.date_ended:
        events.append((task.date_ended, task.state))
    lines = []
    before: datetime | None = None
    for moment, what in events:
        if moment is None:
            continue
        line = Text.assemble(
            (f"{moment.astimezone():%Y-%m-%d %H:%M:%S.%f}"[:-3], "grey50"),
            "  ",
            (what, STATE_STYLES.get(what, "")),
        )
        if before is not None and moment - before >= timedelta(milliseconds=1):
            line.append(f"  +{duration(moment - before)}", style="grey50")
        before = moment
        lines.append(line)
    return lines


def _past_run(entry: Mapping[str, Any]) -> list[tuple[datetime | None, str]]:
    """A run that did not end the task, as the history in its row keeps it."""
    why = entry.get("error_message") or ""
    kind = f"{entry['error_type']}: " if entry.get("error_type") else ""
    reason = shown(f"{kind}{why.splitlines()[0]}" if why else kind.rstrip(": "))
    return [
        (moment_of(entry.get("started")), f"started (attempt {entry.get('attempt', '?')})"),
        (
            moment_of(entry.get("ended")),
            shown(entry.get("what", "ended")) + (f" ({reason})" if reason else ""),
        ),
    ]


def _json_lines(value: object) -> list[Text]:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if len(text) > _LONG:
        text = f"{text[:_LONG]}\n… {len(text) - _LONG:,} more characters (--json shows all)"
    return [Text(shown(line)) for line in text.splitlines()]


def _relatives(task: TaskDetails) -> list[Text]:
    lines = [Text("parent  ").append_text(_relative(parent)) for parent in task.parents]
    if task.parent_count > len(task.parents):
        lines.append(Text(f"… {task.parent_count - len(task.parents):,} more parents"))
    lines += [Text("child   ").append_text(_relative(child)) for child in task.children]
    children = sum(task.children_by_state.values())
    if children > len(task.children):
        lines.append(Text(f"… of {children:,} children: {_by_state(task.children_by_state)}"))
    return lines


def _relative(task: TaskRow, *, marked: bool = False) -> Text:
    return Text.assemble(
        state_text(task.state),
        " ",
        (shown(task.name), "bold" if marked else ""),
        (f" {task.id}", "grey50"),
        " ← this one" if marked else "",
    )


def _by_state(states: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {state}" for state, number in states.items())


def family_tree(family: Family, marked: UUID) -> Tree:
    """The family as a drawing: parents above their children, the asked one marked.

    A task with several parents is drawn out below the first of them and mentioned below the
    others. Of more than twenty children the first are drawn and the rest counted by state.
    """
    tasks = {task.id: task for task in family.tasks}
    children: dict[UUID, list[UUID]] = defaultdict(list)
    for parent, child in family.links:
        children[parent].append(child)
    kids = {child for _, child in family.links}
    root = Tree(Text(count(len(tasks), "task")), hide_root=False)
    # A cycle cannot be enqueued, but rows can be forged: then nobody is without parents.
    tops = [task for task in tasks if task not in kids] or [marked]
    drawn: set[UUID] = set()
    todo = deque(_branches(root, tops, tasks, marked))
    while todo:
        branch, what = todo.popleft()
        if isinstance(what, Text):
            branch.add(what)
            continue
        line = _relative(tasks[what], marked=what == marked)
        if what in drawn:
            branch.add(line.append(" (see above)", style="grey50"))
            continue
        drawn.add(what)
        # Depth first: the children come next, before the branch's other tasks.
        todo.extendleft(reversed(_branches(branch.add(line), children[what], tasks, marked)))
    if family.truncated:
        root.add(Text("… and more: the family is too large to be drawn"))
    return root


def _branches(
    branch: Tree, ids: Sequence[UUID], tasks: Mapping[UUID, TaskRow], marked: UUID
) -> list[tuple[Tree, UUID | Text]]:
    """What to draw below a branch: the first tasks, the marked one, and a count of the others."""
    todo: list[tuple[Tree, UUID | Text]] = [(branch, task) for task in ids[:_SIBLINGS]]
    rest = list(ids[_SIBLINGS:])
    if marked in rest:
        rest.remove(marked)
        todo.append((branch, marked))
    if rest:
        states = Counter(tasks[task].state for task in rest)
        todo.append((branch, Text(f"{len(rest):,} others: {_by_state(states)}", style="grey50")))
    return todo
