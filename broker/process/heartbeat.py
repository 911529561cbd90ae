"""Heartbeats: each loop signals within its own deadline, and `/healthz` reads when it did last."""

from __future__ import annotations

import time


class Heartbeat:
    """The heartbeat of one loop."""

    def __init__(self, name: str, deadline: float = 30.0) -> None:
        """*deadline* is in seconds: a loop that was silent for longer counts as dead."""
        self.name = name
        self.trouble = ""
        """What keeps the loop from its work although it lives, in words."""
        self._deadline = deadline
        self._last = time.monotonic()

    def signal(self, allow: float = 0.0) -> None:
        """Signal that the loop lives; it may then be silent for *allow* seconds longer than usual."""
        self._last = time.monotonic() + allow

    def silent_for(self) -> float:
        """Return the seconds since the last signal."""
        return max(0.0, time.monotonic() - self._last)

    @property
    def alive(self) -> bool:
        """Whether the loop signalled within its deadline."""
        return self.silent_for() < self._deadline
