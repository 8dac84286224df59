"""Waiting for a bell."""

from __future__ import annotations

import asyncio

import pytest
from helpers import PATIENCE

from fastedgy.wakeups import until_rung


async def test_a_bell_that_has_rung_is_silent_again_at_once() -> None:
    bell = asyncio.Event()
    bell.set()
    await asyncio.wait_for(until_rung(bell, 3600), PATIENCE)
    assert not bell.is_set()


async def test_a_bell_that_rings_wakes() -> None:
    bell = asyncio.Event()
    waiting = asyncio.create_task(until_rung(bell, 3600))
    await asyncio.sleep(0)
    assert not waiting.done()
    bell.set()
    await asyncio.wait_for(waiting, PATIENCE)
    assert not bell.is_set()


async def test_time_that_is_over_wakes_without_a_ring() -> None:
    bell = asyncio.Event()
    await asyncio.wait_for(until_rung(bell, 0.01), PATIENCE)
    assert not bell.is_set()


async def test_who_is_cancelled_leaves_no_ring_behind() -> None:
    bell = asyncio.Event()
    waiting = asyncio.create_task(until_rung(bell, 0.05))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0.1)
    assert not bell.is_set()
