"""The application whose durable tasks the tests kill."""

from __future__ import annotations

import flow_tasks  # noqa: F401
import step_tasks  # noqa: F401

from fastedgy.app import FastEdgy

app = FastEdgy()
