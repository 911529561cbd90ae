"""Connections to Redis that are reset (a firewall forgot them, Redis was killed) while nobody looks, on every loop.

The broker runs as a process of its own: uvloop, on which it runs, answers a write to a reset connection in another way
than asyncio's own loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.proxy import RedisProxy
from tests.redis_server import RedisServer
from tests.regressions.conftest import provider_at
from tests.regressions.process import Process, broker_process
from tests.scripted_server import AuthorizationServer
from tests.waiting import until

_REFRESH = {"min_interval": "0s", "report_budget": 3600}


@pytest.fixture
async def proxy(shared_redis: RedisServer, redis: Redis) -> AsyncIterator[RedisProxy]:
    """Yield what stands between the broker and Redis."""
    async with RedisProxy(shared_redis.port) as made:
        yield made


@pytest.fixture
async def broker(proxy: RedisProxy, auth_server: AuthorizationServer, tmp_path: Path) -> AsyncIterator[Process]:
    """Yield a broker with one grant; at the end it lives, and kept what it was given."""
    providers = {"as": provider_at(auth_server)}
    async with broker_process(tmp_path / "broker", proxy.url, providers, refresh=_REFRESH) as process:
        await process.put("g1", auth_server.issue("g1"))
        await until(lambda: process.has_token("g1"))
        yield process
        await process.keeps(auth_server)


async def _refreshes(broker: Process) -> None:
    """Require that a report of a refused token brings a new one."""
    _, before, headers = await broker.ask("GET", "/v1/grants/g1/token")

    async def renewed() -> bool:
        await broker.ask("POST", "/v1/grants/g1/refresh", headers={"If-Match": headers["ETag"]})
        return bool((await broker.get("/v1/grants/g1/token"))["access_token"] != before["access_token"])

    await until(renewed, 20, 0.2)


async def test_idle_connections(broker: Process, proxy: RedisProxy) -> None:
    """A connection that was reset while idle is noticed before anything is sent on it: no answer fails."""
    for _ in range(5):
        proxy.reset()
        await asyncio.sleep(0.05)
        assert (await broker.ask("GET", "/v1/grants?limit=10"))[0] == 200
    await _refreshes(broker)


async def test_new_connections(broker: Process, proxy: RedisProxy) -> None:
    """Connections that are reset as soon as they are open are a Redis that cannot be reached."""
    for times in range(1, 8):
        proxy.resetting = times
        proxy.reset()
        await until(lambda: proxy.resetting == 0, 20)
    await _refreshes(broker)


async def test_connections_in_use(broker: Process, proxy: RedisProxy) -> None:
    """Resets at any moment, a hundred times, end neither the broker nor a grant."""
    for _ in range(100):
        proxy.reset()
        await asyncio.sleep(0.02)
    await _refreshes(broker)
