"""Wake lanes that have nothing to do, when they may have: one call to Redis for all of them instead of one for each.

A lane polls, since another replica may make a grant due, or die with a lease on one. A thousand lanes that poll every
two seconds cost 5 % of a core here and 3 % in Redis. So where there are many, lanes rest until they are woken: those
whose provider has something to claim, and in turn each other one, whose claim sees what only a claim sees: a fence, a
clock that was set back, a server that does not answer.
"""

from __future__ import annotations

import asyncio
import math
from heapq import nsmallest
from typing import TYPE_CHECKING

from broker.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from broker.refresh.scheduler import Lane
    from broker.store import Schedule

FEW = 8
"""Lanes that poll for themselves: one call for all of them would save nothing."""
LONGEST_REST = 60.0
"""Seconds after which a lane that nobody woke claims all the same."""


class IdleLanes:
    """Watches over *lanes*, which may come and go, and wakes those that rest."""

    def __init__(self, lanes: Mapping[str, Lane], schedule: Schedule, interval: float) -> None:
        """*interval*: seconds between two looks at Redis."""
        self._lanes = lanes
        self._schedule = schedule
        self._interval = interval

    async def run(self, stopping: asyncio.Event) -> None:
        """Watch until *stopping*."""
        while not stopping.is_set():
            await self.step()
            try:
                await asyncio.wait_for(stopping.wait(), self._interval)
            except TimeoutError:
                pass

    async def step(self) -> None:
        """Wake whoever has something to do, and whose turn it is."""
        many = len(self._lanes) > FEW
        for lane in self._lanes.values():
            lane.may_rest = many
        resting = [lane for lane in self._lanes.values() if lane.rests_since is not None]
        for lane in resting if not many else [*await self._with_work(resting), *self._in_turn(resting)]:
            lane.wake()
        for lane in resting:
            lane.signal()

    async def _with_work(self, resting: Sequence[Lane]) -> Collection[Lane]:
        try:
            due = await self._schedule.find_due([lane.provider for lane in resting], int(self._interval * 1000))
        except StoreUnavailable:
            return ()  # those whose turn it is find out, and report it
        return [lane for lane in resting if lane.provider in due]

    def _in_turn(self, resting: Sequence[Lane]) -> Collection[Lane]:
        number = math.ceil(len(resting) * self._interval / LONGEST_REST)
        return nsmallest(number, resting, key=lambda lane: lane.rests_since or 0.0)
