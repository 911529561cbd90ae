"""Report the process's state to its supervisor: systemd's protocol, sd_notify(3).

Without NOTIFY_SOCKET nothing is sent. What cannot be sent is dropped: a supervisor that is gone stops nothing here.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_INTERVAL = 10.0
"""Seconds between two reports where no watchdog asks for more."""
_START_EXTENSION = 60.0
"""Seconds by which each report extends the start, while it waits for Redis."""
_MAX_STATUS = 200
"""Characters of a status: it is one line of `systemctl status`."""


class Systemd:
    """The supervisor that started this process and wants reports, if there is one."""

    def __init__(self, address: str = "", *, watchdog: float = 0.0) -> None:
        """Connect to the supervisor.

        Args:
            address: of a Unix datagram socket, an abstract one begins with `@`; empty: no supervisor.
            watchdog: seconds; 0: none.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = watchdog
        self._started = False
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls) -> Self:
        """Connect to the supervisor that the environment names.

        Its variables are removed, so that no child process reports for this one.
        """
        address, usec, pid = (os.environ.pop(name, "") for name in _VARIABLES)
        addressed = pid in {"", str(os.getpid())} and usec.isascii() and usec.isdigit()
        return cls(address, watchdog=int(usec) / 1e6 if addressed else 0.0)

    @asynccontextmanager
    async def watching(self, alive: Callable[[], bool], status: Callable[[], str]) -> AsyncIterator[None]:
        """Report while the body runs: feed the watchdog at half its time while the process is *alive*, and *status*."""
        if self._socket is None:
            yield
            return
        watch = asyncio.ensure_future(self._watch(alive, status))
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.wait({watch})
            self._socket.close()
            self._socket = None

    async def _watch(self, alive: Callable[[], bool], status: Callable[[], str]) -> None:
        pause = self._watchdog / 2 if self._watchdog else _INTERVAL
        while True:
            lines = [_line(status())]
            if alive():
                lines += ["WATCHDOG=1"] if self._watchdog else []
                lines += [] if self._started else [_extend(_START_EXTENSION)]
            self._send(*lines)
            await asyncio.sleep(pause)

    def ready(self, status: str) -> None:
        """Report that the start, or a reload, is done."""
        self._started = True
        self._send("READY=1", _line(status))

    def reloading(self) -> None:
        """Report that the settings are being read again; `ready` reports the end of that."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str, limit: float) -> None:
        """Report that the end has begun; it may take *limit* seconds, whatever the unit's TimeoutStopSec says."""
        self._send("STOPPING=1", _extend(limit), _line(status))

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            pass


def _extend(limit: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={int(limit * 1e6)}"


def _line(status: str) -> str:
    """Return *status* as an assignment: one line, since the next line would be another assignment."""
    return f"STATUS={' '.join(status.split())[:_MAX_STATUS]}"
