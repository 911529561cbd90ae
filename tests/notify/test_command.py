"""A program as a channel: what it is given, and how it may end."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from broker.notify.channels import command
from broker.notify.channels.channel import NotDelivered
from broker.notify.channels.command import Command
from broker.notify.notice import Notice

SLEEP = f"61.{os.getpid()}"
"""Seconds, and a mark by which this process alone finds its children."""


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import time; print('soon', flush=True); time.sleep(60)", "killed: still running after 2 s: soon"),
        ("import subprocess; subprocess.run(['sleep', 'SLEEP'])", "killed"),
        ("raise SystemExit(4)", "exit 4"),
        ("print('\\x1b[2J' + 'x' * 10**6)\nraise SystemExit(1)", "exit 1: \\x1b[2Jxxx"),
    ],
)
@pytest.mark.server
async def test_command_that_fails(code: str, why: str, tmp_path: Path) -> None:
    """A command that hangs is killed with every process that it started; its output is bounded and escaped."""
    began = time.monotonic()
    with pytest.raises(NotDelivered) as failed:
        await Command([sys.executable, "-c", code.replace("SLEEP", SLEEP)], 2 if "sleep" in code else 20).send(
            Notice("msg_1", "test", 0)
        )
    assert str(failed.value).startswith(why)
    assert len(str(failed.value)) < 600
    assert time.monotonic() - began < 25
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if SLEEP.encode() in _read(path)]
    assert not left


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.server
async def test_command_without_the_broker_s_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A command gets the notice on its standard input, and the environment without any setting: one may be secret."""
    monkeypatch.setenv("TOKEN_BROKER_PROVIDERS__ACME__CLIENT_SECRET", "s3cret")
    code = f"import os, sys; open({str(tmp_path / 'got')!r}, 'w').write(sys.stdin.read() + str(sorted(os.environ)))"
    assert await Command([sys.executable, "-c", code], 10).send(Notice("msg_1", "test", 5_000)) == "exit 0"
    got = (tmp_path / "got").read_text()
    assert '"id": "msg_1"' in got
    assert "TOKEN_BROKER" not in got
    assert "PATH" in got


@pytest.mark.server
async def test_command_that_has_ended() -> None:
    """A command that ends before the notice is written has ignored it, on every event loop."""
    process = await asyncio.create_subprocess_exec("true", stdin=asyncio.subprocess.PIPE)
    await process.wait()
    await asyncio.sleep(0.05)
    await command._write_notice(process, b"x" * 100_000)
