"""What time it is: Redis's clock, carried on by the local monotonic one.

Every point in time that is written down or compared is on this clock, so a replica whose wall clock is wrong, or
jumps, neither refreshes too late nor serves what has expired. Until Redis answered once it is the wall clock.

Redis read its clock at some moment between our question and its answer. While one is slow, or we are, that leaves
room for any error; so a time is moved only as far as an answer proves it wrong.
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

    def observe(self, now: int, asked: float) -> None:
        """Be within what Redis just said, *now* (whole epoch ms), of a question sent at *asked* (monotonic seconds)."""
        least, most = now - time.monotonic() * 1000, now + 1 - asked * 1000
        self._ahead = min(max(self._ahead, least), most)
        self.observed = True

    @property
    def wall_offset_ms(self) -> int:
        """How far the local wall clock is ahead of this one (ms)."""
        return int(time.time() * 1000) - self()
