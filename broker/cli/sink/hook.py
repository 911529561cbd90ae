"""What is done after a file was written: a command, a signal, or both; many changes at once are one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger()
DEBOUNCE = 0.5
"""Seconds that are waited for further changes."""
_TIMEOUT = 60.0
"""Seconds after which a command, and whatever it started, is killed."""
_KEY = "TOKEN_BROKER_KEY"


@dataclass(frozen=True, slots=True)
class Action:
    """What is to be done. Sinks with equal ones share them."""

    command: tuple[str, ...] = ()
    signal: signal.Signals | None = None
    pid_file: Path | None = None

    async def do(self) -> None:
        """Do it, once. What goes wrong is an event: the file is good all the same."""
        if self.command:
            await self._run()
        if self.signal is not None and self.pid_file is not None:
            self._send()

    async def _run(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != _KEY}
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr,
                start_new_session=True,
                env=environment,
            )
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            log.error("hook.failed", command=self.command[0], error=f"cannot be run ({why})")
            return
        try:
            code = await asyncio.wait_for(process.wait(), _TIMEOUT)
        except TimeoutError:
            log.error("hook.failed", command=self.command[0], error=f"killed: it had not ended after {_TIMEOUT:g} s")
        else:
            if code != 0:
                log.error("hook.failed", command=self.command[0], error=f"exit {code}")
            else:
                log.info("hook.run", command=self.command[0])
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    def _send(self) -> None:
        assert self.signal is not None and self.pid_file is not None  # noqa: S101, PT018 - `do` has looked
        try:
            pid = _pid(self.pid_file.read_text("ascii"))
            os.kill(pid, self.signal)
        except ValueError:  # UnicodeDecodeError is one
            why = "it holds no process id"
        except ProcessLookupError:
            why = "no such process"
        except OSError as error:
            why = error.strerror or type(error).__name__
        else:
            log.info("hook.signalled", pid=pid, signal=self.signal.name)
            return
        log.error("hook.failed", pid_file=str(self.pid_file), error=why)


def _pid(text: str) -> int:
    """The process id in a file. 0, 1 and negative ones mean more than one process, or all: ValueError."""
    pid = int((text.split() or [""])[0])
    if pid <= 1:
        raise ValueError
    return pid


class Hook:
    """Does an action some time after it was asked to, once for all who asked meanwhile."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """A file changed."""
        self._asked.set()

    async def run(self) -> None:
        """Act until cancelled."""
        while True:
            await self._asked.wait()
            await asyncio.sleep(DEBOUNCE)
            self._asked.clear()
            try:
                await self.action.do()
            except asyncio.CancelledError:
                self._asked.set()
                raise

    async def finish(self) -> None:
        """Act now if it was asked to, and has not: the next process finds the file right, and asks for nothing."""
        if self._asked.is_set():
            await self.action.do()
