"""The time limit of one request, which this process's own stalls do not shorten. Knows nothing of HTTP.

A process that was frozen, starved of CPU or kept busy by one callback finds the end of a request's time passed while
the response lies in its socket. To believe that end would make the outcome unknown, and the token be presented twice.
"""

from __future__ import annotations

import asyncio

TICK = 0.25
"""Seconds between two looks at the clock; a tenth of a limit that is short. Most requests end before the first."""
STALL = 0.05
"""A look so many seconds late means that the process stalled."""
READ_LATE = 0.25
"""Seconds for which is still read after a stall, wherever the limit is: what arrived meanwhile is in the socket."""
MOST_STALLS = 20
"""Stalls of one request that count, so that it ends even in a process that stalls all the time."""


class TimeLimit:
    """Expires an `asyncio.Timeout` after so many seconds in which this process ran.

    Stalls add at most the limit once more: after that only what has arrived is read. A lease that ends meanwhile is no
    reason to stop: its next holder finds an open attempt all the same, and an answer that comes is recorded by its
    generation.
    """

    def __init__(self, limit: asyncio.Timeout, seconds: float) -> None:
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._end, self._latest, self._stalls = now + seconds, now + 2 * seconds, 0
        self._tick = min(TICK, seconds / 10)
        self._arm(now)

    def cancel(self) -> None:
        """Expire no more."""
        self._timer.cancel()

    def _arm(self, now: float) -> None:
        self._due = min(now + self._tick, self._end)
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        late = now - self._due
        if late > STALL and self._stalls < MOST_STALLS:
            self._stalls += 1
            self._end = max(min(self._end + late, self._latest), now + READ_LATE)
        if now < self._end:
            self._arm(now)
        else:
            self._limit.reschedule(now)
