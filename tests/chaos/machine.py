"""What a machine that many share does to a process: that is no fault of its own."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path


def waited(pid: int) -> float:
    """Return the seconds for which threads of a process were ready to run and got no CPU; 0 where no kernel says.

    Of all its threads: one that holds the interpreter's lock, or the lock of a wrong clock's library, and gets no CPU
    keeps the event loop waiting, which is then not ready to run itself.
    """
    seconds = 0.0
    for schedule in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended
            seconds += int(schedule.read_text().split()[1]) / 1e9
    return seconds


@dataclass(slots=True)
class Lags:
    """When this very process was late, and by how much. Times are monotonic seconds."""

    longest: float = 0.0
    _seen: list[tuple[float, float]] = field(default_factory=list)

    def add(self, at: float, late: float) -> None:
        """Note that this process was *late* until *at*."""
        self._seen.append((at, late))
        self.longest = max(self.longest, late)

    def between(self, first: float, last: float) -> float:
        """For how long in all, of those that ended between these times."""
        return sum(late for at, late in self._seen if first <= at <= last)
