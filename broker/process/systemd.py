"""Telling whoever supervises the process how things stand: systemd's protocol, sd_notify(3).

Without NOTIFY_SOCKET nothing is said. What cannot be said is dropped: a supervisor that is gone stops nothing here.
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
_PACE = 10.0
"""Seconds between two looks where no watchdog asks for more."""
_PATIENCE = 60.0
"""Seconds more that a start is asked to be given at each look, while it waits for Redis."""
_LONGEST = 200
"""Characters of a status: it is one line of `systemctl status`."""


class Systemd:
    """Who started us and wants to hear of us, if anybody."""

    def __init__(self, address: str = "", *, watchdog: float = 0.0) -> None:
        """*address*: of a Unix datagram socket, `@` in front of an abstract one. *watchdog*: seconds, 0 for none."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = watchdog
        self._started = False
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def of_process(cls) -> Self:
        """The one that the environment names. Its variables are taken out: nothing that we start speaks for us."""
        address, usec, pid = (os.environ.pop(name, "") for name in _VARIABLES)
        ours = pid in {"", str(os.getpid())} and usec.isascii() and usec.isdigit()
        return cls(address, watchdog=int(usec) / 1e6 if ours else 0.0)

    @asynccontextmanager
    async def watching(self, alive: Callable[[], bool], status: Callable[[], str]) -> AsyncIterator[None]:
        """During the body: feed the watchdog, at half its time, as long as the process is *alive*; say its *status*."""
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
        pause = self._watchdog / 2 if self._watchdog else _PACE
        while True:
            lines = [_line(status())]
            if alive():
                lines += ["WATCHDOG=1"] if self._watchdog else []
                lines += [] if self._started else [_extend(_PATIENCE)]
            self._say(*lines)
            await asyncio.sleep(pause)

    def ready(self, status: str) -> None:
        """The start, or a reload, is done."""
        self._started = True
        self._say("READY=1", _line(status))

    def reloading(self) -> None:
        """The settings are being read again; `ready` says when that is done."""
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str, limit: float) -> None:
        """The end has begun, and may take *limit* seconds, whatever the unit's TimeoutStopSec says."""
        self._say("STOPPING=1", _extend(limit), _line(status))

    def _say(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            pass


def _extend(limit: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={int(limit * 1e6)}"


def _line(status: str) -> str:
    """*status* as an assignment: one line, since the next line would be another assignment."""
    return f"STATUS={' '.join(status.split())[:_LONGEST]}"
