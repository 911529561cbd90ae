"""Work in bulk takes turns on the event loop, so that others are served between two slices of it.

A request in bulk (an import) costs as much as thousands of others. All such requests together have one turn at a time,
and after each slice of it everything else that is ready goes first.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.read.activity import ReadActivity

SLICE = 0.001
"""Seconds of work after which others go first."""


class Turns:
    """Whose turn it is, and how long it has lasted."""

    def __init__(self, read_activity: ReadActivity) -> None:
        self._read_activity = read_activity
        self._lock = asyncio.Lock()
        self._slice_ends = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until nobody else has a turn, and have it for the body, which calls `pause` wherever it can."""
        async with self._lock:
            await self.pause()
            yield

    async def pause(self) -> None:
        """Let others go first where the slice is over: for longer while callers read tokens."""
        if time.monotonic() < self._slice_ends:
            return
        if self._read_activity.recent:
            await self._read_activity.yield_to_reads()
        else:
            await asyncio.sleep(0)
        self._slice_ends = time.monotonic() + SLICE
