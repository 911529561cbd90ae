"""A disk that can be made not to answer, as network block storage does for seconds and minutes."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


class Disk:
    """`fdatasync` and `fsync` that do not answer while it is stuck."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._answers = threading.Event()
        self._answers.set()
        for name in ("fdatasync", "fsync"):
            patch.setattr(os, name, self._waiting(getattr(os, name)))

    def _waiting(self, call: Callable[[int], None]) -> Callable[[int], None]:
        def wait(descriptor: int) -> None:
            self._answers.wait(30)
            call(descriptor)

        return wait

    def sticks(self) -> None:
        """Answer no call from now on."""
        self._answers.clear()

    def answers(self) -> None:
        """Let what has waited go on."""
        self._answers.set()
