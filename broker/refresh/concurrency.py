"""Limit concurrent requests to one provider adaptively (AIMD), and decide how many of them begin together.

A server that fails above a handful of parallel requests fails most of a wide burst, and each failed request may have
redeemed a token whose answer is lost. So a failure halves the limit, several in a row reduce it to one, and it
grows again as requests succeed: by one for each up to where it went wrong, then ever more slowly (as TCP does).

Responses to a batch arrive together, and then its slots are empty while all of them are dealt with; in smaller
batches, one is dealt with while the others are under way. Every claim has its price, too: where a server answers at
once, requests wait for this process's CPU, and a free slot is worth nothing.

Pure: no clock. `began` and `now` are given, in seconds of one and the same clock.
"""

from __future__ import annotations

CLOSED_AFTER = 3
"""Failures in a row after which one request at a time is left."""
_LEAST = 2.0
"""What a single failure leaves at least, so that one grant that always hangs starves no other."""
QUICK = 0.005
"""Seconds in which a server answers at once: requests then wait for this process's CPU."""
_BATCHES = (2, 3)
"""In how many batches a lane is filled, where its server is quick and where it is not. At 10 ms a burst takes 1.18
times as long in one batch and 1.08 times in two; at 0 ms thirds take 5 % more CPU than halves
(`python -m tests.benchmarks.tricks batches-10ms halves-10ms thirds`)."""


class ConcurrencyLimit:
    """How many requests of one lane may be in flight, at most *highest*."""

    def __init__(self, highest: int) -> None:
        self._highest = float(highest)
        self._limit = self._highest
        self._went_wrong_at = self._highest
        self._failures_in_a_row = 0
        self._lowered_at = float("-inf")

    def __int__(self) -> int:
        return int(self._limit)

    def succeeded(self, began: float) -> None:
        """Count a request that *began* then and was answered."""
        self._failures_in_a_row = 0
        # A request that was under way when the limit was lowered says nothing of the new limit.
        if began >= self._lowered_at:
            step = 1 if self._limit < self._went_wrong_at else 1 / self._limit
            self._limit = min(self._highest, self._limit + step)

    def failed(self, began: float, now: float) -> None:
        """Count a request that *began* then and found its server down, busy, or silent."""
        self._failures_in_a_row += 1
        # Requests that were in flight together count as one failure.
        if began >= self._lowered_at:
            self._limit = self._went_wrong_at = min(self._highest, max(_LEAST, self._limit / 2))
            self._lowered_at = now
        if self._failures_in_a_row >= CLOSED_AFTER:
            self._limit = 1.0


class BatchSize:
    """How many requests of one lane begin together, by how quickly its server answers."""

    def __init__(self) -> None:
        self._response_time = 0.0
        """Seconds, smoothed."""

    def answered(self, began: float, now: float) -> None:
        """Count a request that *began* then and was answered now, with something to keep."""
        difference = now - began - self._response_time
        # Of answers that wait for this process's CPU, the first to be read says most about the server.
        self._response_time += difference / (16 if difference > 0 else 4)

    def within(self, limit: int) -> int:
        """Return how many requests may begin together where *limit* may be in flight; at least one."""
        quick, slow = _BATCHES
        return max(1, limit // (quick if self._response_time < QUICK else slow))
