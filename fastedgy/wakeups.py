"""Waiting for an event, for some time at most."""

from __future__ import annotations

import asyncio


async def until_rung(bell: asyncio.Event, seconds: float) -> None:
    """Return when the bell has rung, or after so many seconds, and silence it.

    In Python 3.11 `asyncio.wait_for` waits in an asyncio task of its own, and so wakes its caller
    two turns of the loop later.
    """
    timer = asyncio.get_running_loop().call_later(seconds, bell.set)
    try:
        await bell.wait()
    finally:
        timer.cancel()
    bell.clear()
