"""An application whose worker dies at the step that CRASH_AT names."""

from __future__ import annotations

import os

import crash_tasks  # noqa: F401
from crash_points import plant

from fastedgy.app import FastEdgy

app = FastEdgy()

if "CRASH_AT" in os.environ:
    plant(os.environ["CRASH_AT"])
