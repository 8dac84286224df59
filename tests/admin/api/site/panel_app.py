"""The application of the workers that run as processes."""

from __future__ import annotations

import panel_tasks  # noqa: F401 - its tasks are offered

from fastedgy.app import FastEdgy

app = FastEdgy(admin=False)
