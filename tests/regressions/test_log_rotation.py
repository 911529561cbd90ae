"""A log file that is moved away or cut while the broker writes to it, and SIGHUP at each turn."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from redis.asyncio import Redis

from tests.redis_server import RedisServer
from tests.regressions.conftest import provider_at
from tests.regressions.process import Process, broker_process
from tests.scripted_server import AuthorizationServer
from tests.waiting import until

GRANTS = [f"g{number}" for number in range(20)]
ROUNDS = 10


def cut(log: Path, aside: Path) -> None:
    """As logrotate's `copytruncate`."""
    shutil.copyfile(log, aside)
    with log.open("r+b") as file:
        file.truncate()


def moved(log: Path, aside: Path) -> None:
    """As logrotate's `create`: whoever has the old file open goes on writing there."""
    log.rename(aside)
    log.touch()


@pytest.mark.parametrize("rotate", [cut, moved], ids=["copytruncate", "rename"])
async def test_log_rotated_under_load(
    tmp_path: Path,
    shared_redis: RedisServer,
    redis: Redis,
    auth_server: AuthorizationServer,
    rotate: Callable[[Path, Path], None],
) -> None:
    """200 refreshes through ten turns: every request is answered, every line whole, and nothing that fills holes."""
    providers = {"as": provider_at(auth_server)}
    async with broker_process(tmp_path / "b", shared_redis.url, providers, refresh={"min_interval": "0s"}) as broker:
        for grant in GRANTS:
            await broker.put(grant, auth_server.issue(grant))
        await redis.zadd("broker:{0}:due:as", dict.fromkeys(GRANTS, 0), xx=True)
        await until(lambda: all(auth_server.redeemed[grant] for grant in GRANTS))
        statuses: list[int] = []
        readers = [asyncio.create_task(_read(broker, number, statuses)) for number in range(4)]
        log = broker.folder / "log"
        for turn in range(ROUNDS):
            await until(partial(_at_rest, broker))
            _, token, _ = await broker.ask("GET", "/v1/grants/g0/token")
            waiting = asyncio.create_task(_long_poll(broker, token["generation"]))
            await asyncio.sleep(0.05)
            rotate(log, log.with_name(f"log.{turn}"))
            broker.popen.send_signal(signal.SIGHUP)
            await redis.zadd("broker:{0}:due:as", dict.fromkeys(GRANTS, 0), xx=True)
            await broker.ask("POST", "/v1/grants/g1/retry")  # which has the lane look at once
            assert await waiting > token["generation"]
            wanted = turn + 2
            await until(lambda: all(auth_server.redeemed[grant] >= wanted for grant in GRANTS))
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await until(partial(_at_rest, broker))
        total = sum(auth_server.redeemed.values())
        assert total >= len(GRANTS) * ROUNDS
        assert len(statuses) > ROUNDS
        assert set(statuses) == {200}
        await broker.keeps(auth_server)
        files = [log, *(log.with_name(f"log.{turn}") for turn in range(ROUNDS))]
        written = [file.read_bytes() for file in files]
        assert not any(b"\0" in text for text in written)
        events = [json.loads(line)["event"] for text in written for line in text.splitlines()]
        reloaded, refreshed = events.count("settings.reloaded"), events.count("grant.refreshed")
        # Between a copy and its cut a line may be lost, by whatever writes; never where the file is moved.
        lost = (ROUNDS - reloaded, total - refreshed)
        assert lost == (0, 0) or (rotate is cut and lost < (2, 10)), lost
        broker.secrets |= auth_server.secrets()
        assert not any(secret.encode() in text for secret in broker.secrets for text in written)


async def _read(broker: Process, number: int, statuses: list[int]) -> None:
    """Ask for tokens, one after the other, over one connection."""
    headers = {"X-Broker-Key": broker.admin_key}
    async with aiohttp.ClientSession(headers=headers) as session:
        while True:
            async with session.get(f"{broker.url}/v1/grants/g{number}/token") as answer:
                await answer.read()
                statuses.append(answer.status)
            await asyncio.sleep(0.01)


async def _long_poll(broker: Process, generation: int) -> int:
    """Wait for the grant's next token; its generation."""
    headers = {"If-None-Match": f'"{generation}"', "Prefer": "wait=20"}
    status, token, _ = await broker.ask("GET", "/v1/grants/g0/token", headers=headers)
    assert status == 200
    return int(token["generation"])


async def _at_rest(broker: Process) -> bool:
    """Whether no refresh is under way."""
    (provider,) = (await broker.get("/v1/providers"))["providers"]
    return bool(provider["grants"]["leased"] == 0)
