"""What reads the broker's log stops, or ends: the broker serves on, and does not end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.waiting import until


@pytest.mark.parametrize("reader", ["stops", "ends"])
async def test_a_log_that_nobody_reads(own_redis: RedisServer, tmp_path: Path, reader: str) -> None:
    """Requests that log far more than a pipe holds are answered at once, and SIGTERM ends the broker well."""
    port, end, descriptor = free_port(), *os.pipe()
    settings = tmp_path / "broker.toml"
    settings.write_text(
        f'data_dir = "{tmp_path / "data"}"\n[http]\nlisten = ["127.0.0.1:{port}"]\ndrain_delay = "0s"\n'
        f'[redis]\nurl = "{own_redis.url}"\n[sealing]\nkeys_file = "{tmp_path / "keys"}"\n[log]\nlevel = "debug"\n'
        '[providers.p]\nkind = "oauth2"\nclient_id = "c"\ntoken_endpoint = "http://127.0.0.1:1/token"\n'
    )
    made = await asyncio.to_thread(subprocess.check_output, [sys.executable, "-m", "broker", "keys", "new"])
    (tmp_path / "keys").write_bytes(made)
    (tmp_path / "keys").chmod(0o600)
    command = [sys.executable, "-m", "broker", "run", "-c", str(settings)]
    broker = await asyncio.to_thread(subprocess.Popen, command, stderr=descriptor, stdout=subprocess.DEVNULL)
    os.close(descriptor)
    url = f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as session:

            async def ready() -> bool:
                try:
                    async with session.get(f"{url}/readyz") as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return False

            await until(ready, 20)
            if reader == "ends":
                os.close(end)
            key = {"X-Broker-Key": (tmp_path / "data" / "admin.key").read_text().strip()}
            # Each import is two lines and more; the lines of 600 fill a pipe of 64 KiB twice.
            for number in range(600):
                body = {"provider": "p", "refresh_token": f"token-{number}-0123456789"}
                async with session.put(f"{url}/v1/grants/g{number}", json=body, headers=key) as answer:
                    assert answer.status == 201
            async with session.get(f"{url}/healthz") as answer:
                assert answer.status == 200
        assert broker.poll() is None
        broker.terminate()
        await until(lambda: broker.poll() is not None, 20)
        assert broker.returncode == 0
    finally:
        broker.kill()
        await asyncio.to_thread(broker.wait)
        if reader == "stops":
            os.close(end)
