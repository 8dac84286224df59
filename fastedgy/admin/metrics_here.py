"""The in-process tasks of one web process in Prometheus' words.

They are in no table, so that these figures are those of the process that was asked: the label
`process` keeps the processes behind one address apart, and each series goes forwards only.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from fastedgy.tasks.counts import TaskCounts

if TYPE_CHECKING:
    from prometheus_client.core import Metric

COUNTED = {
    "scheduled": ("inprocess_tasks_scheduled", "In-process tasks that were scheduled."),
    "retried": ("inprocess_task_retries", "Attempts of in-process tasks that are made again."),
    "timeouts": ("inprocess_task_timeouts", "Attempts that outlived their timeout."),
}
"""Counts, and what they are called here. `_total` follows."""
ENDS = ("done", "failed", "cancelled", "refused")


def of_this_process(counts: Mapping[str, TaskCounts]) -> Iterator[Metric]:
    """What the tasks of each name have come to since the application started."""
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        SummaryMetricFamily,
    )

    process = f"{socket.gethostname()}/{os.getpid()}"
    labels = ["task_name", "process"]
    ended = CounterMetricFamily(
        "inprocess_tasks", "In-process tasks that ended, by how.", labels=[*labels, "status"]
    )
    running = GaugeMetricFamily("inprocess_tasks_running", "Tasks that run.", labels=labels)
    lasted = SummaryMetricFamily(
        "inprocess_task_duration_seconds", "How long whole tasks took, with their retries.",
        labels=labels,
    )  # fmt: skip
    longest = GaugeMetricFamily(
        "inprocess_task_longest_seconds", "How long the longest of them took.", labels=labels
    )
    others = {
        word: CounterMetricFamily(name, about, labels=labels)
        for word, (name, about) in COUNTED.items()
    }
    for name, each in counts.items():
        key = [name, process]
        for status in ENDS:
            ended.add_metric([*key, status], getattr(each, status))
        running.add_metric(key, each.running)
        lasted.add_metric(key, count_value=each.done + each.failed, sum_value=each.seconds)
        longest.add_metric(key, each.longest)
        for word, counter in others.items():
            counter.add_metric(key, getattr(each, word))
    yield from (ended, running, lasted, longest, *others.values())
