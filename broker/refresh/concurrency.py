"""How many requests a lane has in flight at most: what its provider has shown to bear.

A server that fails above a handful of parallel requests fails most of a wide burst, and each failed request may have
redeemed a token whose answer nobody heard. So a failure halves the width, several in a row close it down to one, and
it widens again as requests succeed: one for each up to where it went wrong, then ever more slowly (as TCP does).

And how many of them begin together. What is sent together is answered together, and then their slots are empty while
all of it is dealt with; in portions, one is dealt with while the others are under way. Every claim has its price, too:
where a server answers at once, nobody waits for slots but for us.
Pure: no clock, `now` and `began` are given, in seconds of one and the same clock.
"""

from __future__ import annotations

CLOSED_AFTER = 3
"""Failures in a row after which one request at a time is left."""
_LEAST = 2.0
"""What a single failure leaves at least, so that one grant that always hangs starves nobody."""
QUICK = 0.005
"""Seconds in which a server answers at once: requests then wait for our own CPU, and a slot for nobody."""
_PORTIONS = (2, 3)
"""Of a lane, where its server is quick and where it is not. At 0 ms thirds cost a tenth more CPU for each grant than
halves; at 10 ms halves leave slots empty (0.83x of a bare loop's rate against 0.90x)."""


class Width:
    """The width of one lane, at most *widest*."""

    def __init__(self, widest: int) -> None:
        self._widest = float(widest)
        self._width = self._widest
        self._went_wrong_at = self._widest
        self._in_a_row = 0
        self._narrowed_at = float("-inf")
        self._answers_in = 0.0

    def __int__(self) -> int:
        return int(self._width)

    @property
    def portion(self) -> int:
        """How many requests may begin together."""
        quick, slow = _PORTIONS
        return max(1, int(self._width) // (quick if self._answers_in < QUICK else slow))

    def answered(self, began: float, now: float) -> None:
        """A request that *began* then was answered now, with something to keep."""
        further = now - began - self._answers_in
        # Of answers that wait for our own CPU, the first to be heard tells most of the server.
        self._answers_in += further / (16 if further > 0 else 4)

    def succeeded(self, began: float) -> None:
        """A request that *began* then was answered."""
        self._in_a_row = 0
        # One that was under way when the lane narrowed says nothing of the new width.
        if began >= self._narrowed_at:
            step = 1 if self._width < self._went_wrong_at else 1 / self._width
            self._width = min(self._widest, self._width + step)

    def failed(self, began: float, now: float) -> None:
        """A request that *began* then found its server down, busy, or silent."""
        self._in_a_row += 1
        # Requests that were in flight together are one failure.
        if began >= self._narrowed_at:
            self._width = self._went_wrong_at = min(self._widest, max(_LEAST, self._width / 2))
            self._narrowed_at = now
        if self._in_a_row >= CLOSED_AFTER:
            self._width = 1.0
