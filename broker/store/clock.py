"""The store's time: Redis's clock, continued by the local monotonic clock between two replies.

Every point in time that is stored or compared is on this clock. So a replica whose wall clock is wrong, or jumps,
neither refreshes too late nor serves an expired token. Until the first reply it is the wall clock.

Redis read its clock at some moment between the request and the reply. Where either side is slow, that moment is
uncertain; so the clock is moved only as far as a reply proves it wrong.

Redis's clock may be set back while tokens live. The monotonic clock shows by how much: what was planned before moves
back by as much, in memory at once, in the store by `rewind.lua`, and as it is read until that is done.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

SET_BACK_MS = 5_000
"""A smaller step back is not made up for: tokens seem to live so much longer at most."""
_SAME_MS = 60_000
"""Two brokers that find the clock set back within this time mean one step of it; the prelude says the same."""


class SetBack(NamedTuple):
    """A step back of Redis's clock: when it was found, by the new time (epoch ms), and by how much (ms)."""

    at: int
    by: int


class Clock:
    """Call it for the time in epoch milliseconds."""

    def __init__(self) -> None:
        self._ahead = time.time() * 1000 - time.monotonic() * 1000
        self.observed = False
        self.set_back: SetBack | None = None
        """The last step back that is known."""
        self.steps_back = 0
        """How many steps back were found here."""
        self.on_set_back: Callable[[int], None] = lambda _: None
        """Called with the ms of each step back that this broker finds, before anything else is done by the new time."""

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
        ahead = min(max(self._ahead, least), most)
        back, self._ahead = int(self._ahead - ahead), ahead
        if self.observed and back >= SET_BACK_MS:
            self.set_back = SetBack(now, back)
            self.steps_back += 1
            self.on_set_back(back)
        self.observed = True

    def ms_to_rewind(self, issued_at: int, rewound: int | None) -> int:
        """Return by how much the times of a stored token are ahead, since the clock was set back after it was issued.

        Args:
            issued_at: Of the token, as it is stored; epoch ms.
            rewound: For which step back, by its time, the token was rewound in the store last.
        """
        if self.set_back is None:
            return 0
        now = self()
        if issued_at <= now + SET_BACK_MS:
            is_rewound = rewound is not None and abs(rewound - self.set_back.at) < _SAME_MS
            if is_rewound or issued_at >= self.set_back.at:
                return 0
        return max(self.set_back.by, issued_at - now)

    @property
    def wall_offset_ms(self) -> int:
        """How far the local wall clock is ahead of this one (ms)."""
        return int(time.time() * 1000) - self()
