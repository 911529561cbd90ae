"""The store's time: Redis's clock, continued by this machine's uptime between two replies.

Every point in time that is stored or compared is on this clock. So a replica whose wall clock is wrong, or jumps,
neither refreshes too late nor serves an expired token. Until the first reply it is the wall clock.

Redis read its clock at some moment between the request and the reply. Where either side is slow, that moment is
uncertain; so the clock is moved only as far as a reply proves it wrong.

Redis's clock may be stepped. The uptime shows by how much. `offset` is the sum of all steps, which all brokers of a
store agree on (see `clock_steps`), and each stored token has the offset at which its times were set. Where the offset
is lower than that by now, the clock was set back since, and the token's times are too late by the difference. Where it
is higher, the clock jumped ahead, or this machine stood still and time did pass: the times stay as they are, and the
token ends too early at worst.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STEP_MS = 5_000
"""A smaller step counts as drift; `lua/rewind.lua` says the same."""
_DRIFT = 0.0005
"""How far two clocks drift apart, seconds a second: as far as NTP slews one of them."""
_SOURCE: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def uptime() -> float:
    """Return seconds of a clock that nobody sets, and that counts while the machine is suspended where one does."""
    return time.monotonic() if _SOURCE is None else time.clock_gettime(_SOURCE)


class Clock:
    """Call it for the time in epoch milliseconds."""

    def __init__(self) -> None:
        self._ahead = time.time() * 1000 - uptime() * 1000
        self.observed = False
        self.offset = 0
        """The sum of all steps of Redis's clock (ms), as far as this broker knows."""
        self.steady: float | None = None
        """How far the clock, without its steps, is ahead of the uptime (ms); None: the store was not asked yet."""
        self.moved_at = 0
        """When the offset changed last, by the clock after that (epoch ms)."""
        self.listeners: list[Callable[[int, int], None]] = []
        """Called with the offset before and after each step, before anything else is done by the new time."""
        self._before = 0
        self._seen = 0
        self._observed_at = 0.0

    def __call__(self) -> int:
        """Return the time in epoch ms."""
        return int(uptime() * 1000 + self._ahead)

    def observe(self, now: int, asked: float) -> None:
        """Move the clock into the bounds that a reply sets, and find out whether it was stepped.

        Args:
            now: Redis's time in the reply, whole epoch ms.
            asked: When the request was sent, by `uptime`.
        """
        up = uptime() * 1000
        least, most = now - up, now + 1 - asked * 1000
        self._ahead = min(max(self._ahead, least), most)
        self.observed = True
        if self.steady is None:
            return
        step = self._ahead - self.steady - self.offset
        if abs(step) >= STEP_MS:
            self._move(self.offset + round(step))
        else:
            most_drift = _DRIFT * (up - self._observed_at)
            self.steady += min(max(step, -most_drift), most_drift)
        self._observed_at = up

    def observe_time(self, reply: Sequence[bytes], asked: float) -> None:
        """Do the same with the reply to `TIME`: seconds and microseconds."""
        seconds, micros = reply
        self.observe(int(seconds) * 1000 + int(micros) // 1000, asked)

    def compare(self, stored: int | None, *, moved_at: int, anchor: float | None, seen_at: int | None) -> int | None:
        """Compare the offset with the one in the store; call it right after `observe`.

        Uptimes may stand still while a machine is paused, but never run ahead. So of two brokers that disagree, the one
        with the lower offset is right, and a higher one counts only where nobody has said otherwise since.

        Args:
            stored: The offset in the store; None: it has none.
            moved_at: When the store's offset changed last (epoch ms).
            anchor: What `steady` was in an earlier process on this machine; None: not known.
            seen_at: When the store was asked last (epoch ms); None: not known.

        Returns:
            The offset to store; None: they agree.
        """
        if self.steady is None:
            return self._begin(stored or 0, moved_at, anchor, seen_at)
        changed, self._seen = stored != self._seen, stored or 0
        if stored is None:
            return self.offset or None
        if abs(stored - self.offset) < STEP_MS:
            self.steady += self.offset - stored
            self.offset, self.moved_at = stored, moved_at
        elif stored > self.offset or not changed:
            return self.offset
        else:
            self.steady += self.offset - stored
            self._move(stored)
        return None

    def _begin(self, stored: int, moved_at: int, anchor: float | None, seen_at: int | None) -> int | None:
        """Take over the store's offset, or the one that its time shows at the start of this process."""
        now = self()
        offset, self.offset, self.moved_at, self._seen = stored, stored, moved_at, stored
        if anchor is not None:
            offset = round(self._ahead - anchor)
        elif seen_at is not None:  # it went back by so much at least
            offset = stored - max(0, seen_at - now)
        if abs(offset - stored) >= STEP_MS:
            self._move(offset)
        self.steady, self._observed_at = self._ahead - self.offset, uptime() * 1000
        return self.offset if self.offset != stored else None

    def _move(self, offset: int) -> None:
        self._before, self.offset, self.moved_at = self.offset, offset, self()
        for listener in self.listeners:
            listener(self._before, offset)

    def offset_of(self, issued_at: int) -> int:
        """Return the offset at which the times of a token were set that was just issued."""
        return self._before if issued_at > self() + STEP_MS else self.offset

    def ms_ahead(self, issued_at: int, stamp: str | None) -> tuple[int, int]:
        """Return by how much the times of a stored token are too late (ms); `lua/rewind.lua` does the same.

        Args:
            issued_at: As it is stored (epoch ms).
            stamp: The offset at which the times were set, and `issued_at` again. Where that is another, or the stamp
                None, a broker that kept no offsets set them.

        Returns:
            By how much, and the offset by which the times count once that is taken off.
        """
        set_at, _, stamped = (stamp or "").partition(" ")
        if self.steady is None:
            return 0, 0
        if stamped == str(issued_at):
            offset = int(set_at)
        else:
            offset = self.offset_of(issued_at) if issued_at >= self.moved_at else 0
        back, now = max(0, offset - self.offset), self()
        if issued_at - back > now + STEP_MS:  # a step that no broker has recorded yet is taken off, too, but only once
            return issued_at - now, offset - (issued_at - now)
        return back, min(offset, self.offset)

    @property
    def wall_offset_ms(self) -> int:
        """How far the local wall clock is ahead of this one (ms)."""
        return int(time.time() * 1000) - self()
