"""What the fixture `opened` is: `async with opened(**settings_of_the_queue) as scheduler`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastedgy.scheduler import Scheduler

Opens = Callable[..., AbstractAsyncContextManager[Scheduler]]
