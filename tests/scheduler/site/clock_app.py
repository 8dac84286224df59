"""An application whose workers fire schedules; CRASH_AT names the step at which they die."""

from __future__ import annotations

import os

import clock_tasks  # noqa: F401

from fastedgy.app import FastEdgy

app = FastEdgy()

if "FIRING_CRASH_AT" in os.environ:
    from firing_points import plant

    plant(os.environ["FIRING_CRASH_AT"])
