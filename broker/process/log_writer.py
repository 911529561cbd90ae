"""Write log lines from a thread: a reader that stops reading, or goes away, neither delays nor ends the process.

Knows nothing of structlog or of what a line holds.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LINES = 8192
"""Lines that wait for their reader, at most."""
_AT_ONCE = 256
_AT_EXIT = 2.0
"""Seconds that the process waits at its end for lines that are not yet written."""


class LogWriter:
    """A text stream over a file descriptor that never blocks and never raises. Lines that find no room are counted."""

    def __init__(self, descriptor: int, encoding: str, report: Callable[[int], None]) -> None:
        """Start the thread.

        Args:
            descriptor: of the log.
            encoding: of its text; characters that it lacks are written as escapes.
            report: called with the count of lost lines once lines are written again.
        """
        self._descriptor = descriptor
        self._encoding = encoding
        self._report = report
        self._lines: deque[str] = deque()
        self._lost = 0
        self._filled, self._emptied = threading.Event(), threading.Event()
        self._emptied.set()
        threading.Thread(target=self._serve, name="log", daemon=True).start()
        atexit.register(self.drain)

    def write(self, text: str) -> int:
        """Have *text* written."""
        if len(self._lines) < MAX_LINES:
            self._lines.append(text)
            self._emptied.clear()
            self._filled.set()
        else:
            self._lost += 1
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes all the time."""

    def drain(self, limit: float = _AT_EXIT) -> None:
        """Wait for *limit* seconds at most until all is written."""
        self._emptied.wait(limit)

    def _serve(self) -> None:
        while True:
            self._filled.wait()
            self._filled.clear()
            while self._lines:
                lines = [self._lines.popleft() for _ in range(min(len(self._lines), _AT_ONCE))]
                if self._put("".join(lines)):
                    self._say_what_was_lost()
                else:
                    self._lost += len(lines)
            self._emptied.set()
            if self._lines:  # one came between the two
                self._emptied.clear()

    def _put(self, text: str) -> bool:
        """Write *text*, however long its reader takes; False where there is no reader or no room on the disk."""
        rest = text.encode(self._encoding, "backslashreplace")
        with contextlib.suppress(OSError):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        return not rest

    def _say_what_was_lost(self) -> None:
        lost, self._lost = self._lost, 0
        if lost:
            self._report(lost)
