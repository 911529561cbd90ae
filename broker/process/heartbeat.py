"""Heartbeats: each loop signals within its own deadline, and `/healthz` reads when it did last."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.errors import StoreUnavailable


class Heartbeat:
    """The heartbeat of one loop."""

    def __init__(self, name: str, deadline: float = 30.0) -> None:
        """*deadline* is in seconds: a loop that was silent for longer counts as dead."""
        self.name = name
        self.trouble_since: float | None = None
        """Since when there has been trouble (epoch seconds)."""
        self.store_error: StoreUnavailable | None = None
        """The error of Redis that the trouble comes from, where it comes from one."""
        self._trouble = ""
        self._deadline = deadline
        self._last = time.monotonic()

    @property
    def trouble(self) -> str:
        """What keeps the loop from its work although it lives, in words."""
        return self._trouble

    @trouble.setter
    def trouble(self, words: str) -> None:
        self._note(words, None)

    def lose_store(self, error: StoreUnavailable, words: str = "") -> None:
        """Note that Redis keeps the loop from its work; *words* say so, else those of *error*."""
        self._note(words or str(error), error)

    def _note(self, words: str, error: StoreUnavailable | None) -> None:
        if bool(words) != bool(self._trouble):
            self.trouble_since = time.time() if words else None
        self._trouble, self.store_error = words, error

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
