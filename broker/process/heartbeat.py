"""Signs of life: each loop beats within its own deadline, and `/healthz` reads them."""

from __future__ import annotations

import time


class Heartbeat:
    """The pulse of one loop. *deadline* is in seconds."""

    def __init__(self, name: str, deadline: float = 30.0) -> None:
        self.name = name
        self.trouble = ""
        """What keeps the loop from its work although it lives, in words."""
        self._deadline = deadline
        self._last = time.monotonic()

    def beat(self, allow: float = 0.0) -> None:
        """I am alive, and may be silent for *allow* seconds longer than usual."""
        self._last = time.monotonic() + allow

    def silent_for(self) -> float:
        """Seconds since the last beat."""
        return max(0.0, time.monotonic() - self._last)

    @property
    def alive(self) -> bool:
        """Whether it has beaten within its deadline."""
        return self.silent_for() < self._deadline
