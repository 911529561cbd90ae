"""The store's time: Redis's clock, continued by the local monotonic clock between two replies.

Every point in time that is stored or compared is on this clock. So a replica whose wall clock is wrong, or jumps,
neither refreshes too late nor serves an expired token. Until the first reply it is the wall clock.

Redis read its clock at some moment between the request and the reply. Where either side is slow, that moment is
uncertain; so the clock is moved only as far as a reply proves it wrong.
"""

from __future__ import annotations

import time


class Clock:
    """Call it for the time in epoch milliseconds."""

    def __init__(self) -> None:
        self._ahead = time.time() * 1000 - time.monotonic() * 1000
        self.observed = False

    def __call__(self) -> int:
        """Return the time in epoch ms."""
        return int(time.monotonic() * 1000 + self._ahead)

    def observe(self, now: int, asked: float) -> None:
        """Move the clock into the bounds that a reply sets.

        Args:
            now: Redis's time in the reply, whole epoch ms.
            asked: When the request was sent, monotonic seconds.
        """
        least, most = now - time.monotonic() * 1000, now + 1 - asked * 1000
        self._ahead = min(max(self._ahead, least), most)
        self.observed = True

    @property
    def wall_offset_ms(self) -> int:
        """How far the local wall clock is ahead of this one (ms)."""
        return int(time.time() * 1000) - self()
