"""Turns: one piece of work at a time, and others go first after each slice."""

from __future__ import annotations

import asyncio
import time

import pytest

from broker.api.turns import SLICE, Turns
from broker.read.activity import ReadActivity


@pytest.mark.parametrize("reads", [False, True])
async def test_others_go_first_after_each_slice(reads: bool) -> None:
    """Work of many slices lets the loop run about once a slice, and not more often than it has to."""
    activity, ticks = ReadActivity(), 0
    turns = Turns(activity)

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    pauses = 0
    async with turns.turn():
        for _ in range(20):
            if reads:
                activity.note()
            ends = time.monotonic() + SLICE
            while time.monotonic() < ends:
                pass
            before = ticks
            await turns.pause()
            pauses += ticks > before
            await turns.pause()
    ticking.cancel()
    assert pauses == 20


async def test_one_at_a_time() -> None:
    """Whoever wants a turn waits until the one before is over, also where that ended by an error."""
    turns, order = Turns(ReadActivity()), []

    async def work(name: str) -> None:
        async with turns.turn():
            order.append(f"{name} begins")
            await asyncio.sleep(0.01)
            order.append(f"{name} ends")
            raise ValueError(name)

    done = await asyncio.gather(work("a"), work("b"), return_exceptions=True)
    assert order == ["a begins", "a ends", "b begins", "b ends"]
    assert all(isinstance(error, ValueError) for error in done)
