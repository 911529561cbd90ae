"""Reverse proxies as processes of a test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp

from tests.deploy.deployment import skip_or_fail
from tests.ports import free_port
from tests.waiting import until

KEY = "proxy-key-0123456789-0123456789-0123456789"


def program(name: str) -> str:
    """Its path; skips where it is missing."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        skip_or_fail(f"{name} is not installed")
    assert found is not None
    return found


@contextlib.asynccontextmanager
async def proxying(
    make: Callable[[Path, int, str, str], list[str]], folder: Path, broker: str, service: str
) -> AsyncIterator[str]:
    """Run a proxy; gives its address."""
    folder.mkdir()
    port = free_port()
    command = make(folder, port, broker, service)
    env = {**os.environ, "BROKER_KEY": KEY, "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env)
    try:
        async with aiohttp.ClientSession() as session:

            async def up() -> bool:
                assert process.poll() is None, (folder / "out").read_text()
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{port}/"):
                        return True
                return False

            await until(up)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
