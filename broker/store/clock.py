"""What time it is: Redis's clock, carried on by the local monotonic one.

Every point in time that is written down or compared is on this clock, so a replica whose wall clock is wrong, or
jumps, neither refreshes too late nor serves what has expired. Until Redis answered once it is the wall clock.
"""

from __future__ import annotations

import time


class Clock:
    """Call it for the time in epoch milliseconds."""

    def __init__(self) -> None:
        self._ahead = time.time() * 1000 - time.monotonic() * 1000
        self.observed = False

    def __call__(self) -> int:
        """The time in epoch ms."""
        return int(time.monotonic() * 1000 + self._ahead)

    def observe(self, now: int) -> None:
        """Take over what Redis just said (epoch ms)."""
        self._ahead = now - time.monotonic() * 1000
        self.observed = True

    @property
    def wall_offset_ms(self) -> int:
        """How far the local wall clock is ahead of this one (ms)."""
        return int(time.time() * 1000) - self()
