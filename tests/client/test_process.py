"""A service at work while the broker's process is killed and started again."""

from __future__ import annotations

import asyncio
import signal

import aiohttp

from broker.client import Broker
from broker.secret import new_sealing_key
from tests.cli.conftest import Home, home
from tests.client.conftest import start_api
from tests.redis_server import RedisServer
from tests.waiting import until

__all__ = ["home"]


async def test_a_killed_broker_goes_unseen(home: Home, own_redis: RedisServer) -> None:
    """Every request of the service succeeds at once, from before SIGKILL until after the next refresh."""
    (home.directory / "sealing.keys").write_text(new_sealing_key() + "\n")
    home.write('[sealing]\nkeys_file = "sealing.keys"', redis=f'url = "{own_redis.url}"')
    authority = home.sandbox.rotating
    process = await home.run()
    key = home.data / "admin.key"
    async with (
        aiohttp.ClientSession(headers={"X-Broker-Key": key.read_text().strip()}) as admin,
        start_api(authority.is_live_access) as api,
        Broker(home.url, key_file=key) as broker,
        aiohttp.ClientSession(middlewares=[broker.grant("g1").aiohttp()]) as session,
    ):
        put = {"provider": "acme", "refresh_token": authority.issue().refresh_token}
        async with admin.put(f"{home.url}/v1/grants/g1", json=put) as answer:
            assert answer.status == 201
        grant = broker.grant("g1")
        await grant.ready()
        first = await grant.token()
        statuses: list[int] = []

        async def work() -> None:
            while True:
                async with session.get(api.url) as answer:
                    statuses.append(answer.status)
                await asyncio.sleep(0.01)

        working = asyncio.create_task(work())
        await asyncio.sleep(0.2)
        await home.stop(process, signal.SIGKILL)
        before = len(statuses)
        await asyncio.sleep(0.5)
        assert len(statuses) > before + 5, "it waits for nobody"
        await home.run()
        async with admin.post(f"{home.url}/v1/grants/g1/retry") as answer:
            assert answer.status == 202

        async def newer() -> bool:
            return (await grant.token()).generation > first.generation

        await until(newer, 30)
        await asyncio.sleep(0.1)
        assert not working.done()
        working.cancel()
    assert set(statuses) == {200}
    assert authority.reuse == 0
