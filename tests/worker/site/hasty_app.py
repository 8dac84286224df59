"""The same application in a worker that loses its patience with a blocked event loop at once."""

from __future__ import annotations

from shop_app import app as app

from fastedgy.worker import heartbeat, watchdog

heartbeat.TICK = 0.1
watchdog.REPORT_AFTER = 0.3
watchdog.HAND_BACK_AFTER = 1.0
watchdog.REPLACE_AFTER = 0.5
