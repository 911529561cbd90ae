"""As the first process of a container: SIGTERM ends the broker from its first moment on, not only once it listens."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import until

_UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def _may_unshare() -> bool:
    try:
        return subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _handles_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(not _may_unshare(), reason="no right to make a PID namespace (unshare --pid)")
@pytest.mark.parametrize("after", [0.0, 0.2, 0.6, 1.5])
async def test_sigterm_while_it_starts(tmp_path: Path, after: float) -> None:
    """It ends with 0 at once, whether it imports, reads its settings or waits for Redis.

    Before the interpreter runs the broker's first line, the kernel drops the signal: nothing can handle it.
    """
    settings = tmp_path / "broker.toml"
    settings.write_text(
        f'data_dir = "{tmp_path / "data"}"\n[redis]\nurl = "redis://127.0.0.1:1"\n'
        f'[sealing]\nkeys_file = "{tmp_path / "keys"}"\n[http]\nlisten = ["unix:{tmp_path / "s"}"]\n'
        '[providers.p]\nkind = "oauth2"\nclient_id = "c"\ntoken_endpoint = "http://127.0.0.1:1/token"\n'
    )
    made = await asyncio.to_thread(subprocess.check_output, [sys.executable, "-m", "broker", "keys", "new"])
    (tmp_path / "keys").write_bytes(made)
    (tmp_path / "keys").chmod(0o600)
    command = [*_UNSHARE, sys.executable, "-m", "broker", "run", "-c", str(settings)]
    outer = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (children := Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()):
            await asyncio.sleep(0.01)
        first = int(children[0])
        await until(lambda: _handles_sigterm(first), 20, 0.001)
        assert not (tmp_path / "data").exists(), "the handler came after the imports"
        await asyncio.sleep(after)
        os.kill(first, signal.SIGTERM)
        assert await asyncio.to_thread(outer.wait, 5) == 0
    finally:
        outer.kill()
        await asyncio.to_thread(outer.wait)
