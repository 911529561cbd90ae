"""What `sink` does after it wrote a file: run a command, send a signal, or both; once for changes close together."""

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
"""Seconds to wait for further changes before acting."""
_TIMEOUT = 60.0
"""Seconds after which the sink kills a command, and whatever it started."""
_SETTINGS = "TOKEN_BROKER_"
"""Variable that a command must not inherit."""


@dataclass(frozen=True, slots=True)
class Action:
    """What to do after a change. Sinks with equal actions share one hook."""

    command: tuple[str, ...] = ()
    signal: signal.Signals | None = None
    pid_file: Path | None = None

    async def do(self) -> None:
        """Run the command and send the signal. A failure is logged only: the file is good all the same."""
        if self.command:
            await self._run()
        if self.signal is not None and self.pid_file is not None:
            _send(self.signal, self.pid_file)

    async def _run(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
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


def _send(number: signal.Signals, pid_file: Path) -> None:
    try:
        pid = _pid(pid_file.read_text("ascii"))
        os.kill(pid, number)
    except ValueError:  # UnicodeDecodeError is one
        why = "it holds no process id"
    except ProcessLookupError:
        why = "no such process"
    except OSError as error:
        why = error.strerror or type(error).__name__
    else:
        log.info("hook.signalled", pid=pid, signal=number.name)
        return
    log.error("hook.failed", pid_file=str(pid_file), error=why)


def _pid(text: str) -> int:
    """Return the process id in the text of a file.

    Raises:
        ValueError: there is none; 0 and negative ones address more than one process, and 1 is the init process.
    """
    pid = int((text.split() or [""])[0])
    if pid <= 1:
        raise ValueError
    return pid


class Hook:
    """An action, run a moment after it was requested, once for all requests until then."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Request the action: a file changed."""
        self._requested.set()

    async def run(self) -> None:
        """Run the action after each request, until cancelled."""
        while True:
            await self._requested.wait()
            await asyncio.sleep(DEBOUNCE)
            self._requested.clear()
            try:
                await self.action.do()
            except asyncio.CancelledError:
                self._requested.set()
                raise

    async def finish(self) -> None:
        """Run a requested action now: the next process finds the file current, and would not request it again."""
        if self._requested.is_set():
            await self.action.do()
