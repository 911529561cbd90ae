"""Stop and reload: what the process's signals ask for."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class Signals:
    """How the process is told to stop, and to read its settings again."""

    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    hurried: bool = False
    """Ctrl-C on a terminal: nobody needs a drain delay there."""
    of_process: bool = True
    """Whether this broker may handle the process's signals: not if it runs inside another program, as in a test."""

    def listen(self, reload: Callable[[], None]) -> None:
        """Stop on SIGTERM and SIGINT, and call *reload* on SIGHUP."""
        if not self.of_process:
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        loop.add_signal_handler(signal.SIGINT, self.interrupt)
        loop.add_signal_handler(signal.SIGHUP, reload)

    def interrupt(self) -> None:
        """Stop after Ctrl-C."""
        self.hurried = sys.stdin is not None and sys.stdin.isatty()
        self.stopping.set()
