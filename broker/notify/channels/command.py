"""Telling by a program: the notice as JSON on its standard input, never in its arguments."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from typing import TYPE_CHECKING

from broker.errors import InvalidSettings
from broker.notify.channels.channel import NotDelivered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.notify.notice import Notice

_SHOWN = 500
"""Bytes of what a program says that are shown; it may say more."""
_OURS = "TOKEN_BROKER_"
_LAST_WORDS = 1.0
"""Seconds for what is still in the pipe of a program that has ended."""


class Command:
    """Runs a program for each notice: exit 0 has taken it. What it says goes, bounded, into what is logged of it."""

    name = "command"

    def __init__(self, command: Sequence[str], timeout: float) -> None:
        """*timeout*: seconds after which it, and whatever it started, is killed."""
        self._command = command
        self._timeout = timeout

    async def tell(self, notice: Notice) -> str:
        """Run it once; its exit code in words. Raises `NotDelivered`."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                env=_environment(),
            )
        except (OSError, ValueError) as error:
            raise NotDelivered(
                f"it cannot be run ({getattr(error, 'strerror', None) or type(error).__name__})"
            ) from None
        said = bytearray()
        hearing = asyncio.ensure_future(_hear(process, said))
        try:
            async with asyncio.timeout(self._timeout):
                await _say(process, notice.body())
                code = await process.wait()
            await asyncio.wait({hearing}, timeout=_LAST_WORDS)
        except TimeoutError:
            raise NotDelivered(f"killed: it had not ended after {self._timeout:g} s{_shown(said)}") from None
        finally:
            hearing.cancel()
            if process.returncode is None:
                await _killed(process)
        if code != 0:
            raise NotDelivered(f"exit {code}{_shown(said)}")
        return f"exit 0{_shown(said)}"


async def _killed(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _LAST_WORDS)


async def _say(process: asyncio.subprocess.Process, body: bytes) -> None:
    assert process.stdin is not None  # noqa: S101 - it was asked for
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it need not read
        process.stdin.write(body + b"\n")
        await process.stdin.drain()
        process.stdin.close()
        await process.stdin.wait_closed()


async def _hear(process: asyncio.subprocess.Process, said: bytearray) -> None:
    assert process.stdout is not None  # noqa: S101 - it was asked for
    while chunk := await process.stdout.read(4096):
        said += chunk[: _SHOWN - len(said)]


def _shown(said: bytearray) -> str:
    text = said.decode("utf-8", "replace").strip()
    return ": " + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) if text else ""


def _environment() -> dict[str, str]:
    """Ours without our settings: they may hold secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


def runnable(command: Sequence[str]) -> Sequence[str]:
    """*command*, whose program is there. Raises `InvalidSettings`."""
    if shutil.which(command[0]) is None:
        raise InvalidSettings(
            f"notify.command: {command[0]} is not there, or not to be executed by uid {os.getuid()}: name a program "
            "by its path, its arguments as further items"
        )
    return command
