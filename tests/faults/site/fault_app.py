"""The application that the fault tests run."""

from __future__ import annotations

import fault_tasks  # noqa: F401

from fastedgy.app import FastEdgy

app = FastEdgy()
