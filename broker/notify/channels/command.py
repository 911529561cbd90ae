"""Deliver notices by running a program: the notice is on its standard input, never in its arguments."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from typing import TYPE_CHECKING

from broker.errors import InvalidSettings
from broker.notify.channels import chat
from broker.notify.channels.channel import NotDelivered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.notify.notice import Notice

_OUTPUT_LIMIT = 500
"""Bytes of the program's output that are kept; the rest is read and discarded."""
_SETTINGS_PREFIX = "TOKEN_BROKER_"
_GRACE = 1.0
"""Seconds to read what is left in the pipe after the program ended, and to wait for a killed program."""


class Command:
    """Run a program for each notice; exit code 0 accepts it. The log line of the notice holds its bounded output."""

    def __init__(self, command: Sequence[str], timeout: float, *, name: str = "command", text: bool = False) -> None:
        """Prepare to run *command*.

        Args:
            command: the program and its arguments.
            timeout: seconds after which it is killed, with every process that it started.
            name: of the channel.
            text: write the notice as people read it, in place of JSON.
        """
        self.name = name
        self._command = command
        self._timeout = timeout
        self._text = text

    async def send(self, notice: Notice) -> str:
        """Run the program once.

        Returns:
            The exit code and the program's output.

        Raises:
            NotDelivered: the program cannot be run, ran too long, or exited with another code than 0.
        """
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
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise NotDelivered(f"the program cannot be run ({reason})") from None
        output = bytearray()
        reading = asyncio.ensure_future(_read_output(process, output))
        try:
            async with asyncio.timeout(self._timeout):
                await _write_notice(process, chat.text(notice).encode() if self._text else notice.body() + b"\n")
                code = await process.wait()
            await asyncio.wait({reading}, timeout=_GRACE)
        except TimeoutError:
            raise NotDelivered(f"killed: still running after {self._timeout:g} s{_escape(output)}") from None
        finally:
            reading.cancel()
            if process.returncode is None:
                await _kill(process)
        if code != 0:
            raise NotDelivered(f"exit {code}{_escape(output)}")
        return f"exit 0{_escape(output)}"


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill the program and its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _GRACE)


async def _write_notice(process: asyncio.subprocess.Process, body: bytes) -> None:
    assert process.stdin is not None  # noqa: S101 - stdin=PIPE
    # The program may ignore its input. It may have ended: then uvloop raises RuntimeError.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
        process.stdin.write(body)
        await process.stdin.drain()
        process.stdin.close()
        await process.stdin.wait_closed()


async def _read_output(process: asyncio.subprocess.Process, output: bytearray) -> None:
    assert process.stdout is not None  # noqa: S101 - stdout=PIPE
    while chunk := await process.stdout.read(4096):
        output += chunk[: _OUTPUT_LIMIT - len(output)]


def _escape(output: bytearray) -> str:
    """Return the output for a log line, unprintable characters escaped; empty if there is none."""
    text = output.decode("utf-8", "replace").strip()
    return ": " + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) if text else ""


def _environment() -> dict[str, str]:
    """Return the broker's environment without its settings: they may hold secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS_PREFIX)}


def require_program(command: Sequence[str], key: str = "notify.command") -> Sequence[str]:
    """Return *command*, the value of the settings' *key*, if its program can be executed.

    Raises:
        InvalidSettings: the program does not exist or is not executable.
    """
    if shutil.which(command[0]) is None:
        raise InvalidSettings(
            f"{key}: {command[0]} does not exist, or uid {os.getuid()} may not execute it: give the "
            "program's path, and its arguments as further items"
        )
    return command
