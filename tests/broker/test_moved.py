"""Brokers whose store moves to another Redis meanwhile: no token is redeemed twice, and none is lost."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.redis_server import client
from tests.regressions.conftest import provider_at
from tests.regressions.process import stored_is_live
from tests.regressions.redis_servers import held_back
from tests.scripted_server import authorization_server
from tests.steps import assert_sound, fall_due, make_due
from tests.store.moves import moving
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker
    from tests.redis_server import RedisServer

QUICK = {"request_timeout": "1s", "lease": "8s", "min_interval": "0s"}
GRANTS = [f"g{n}" for n in range(24)]


async def keep_due(redis: Redis) -> None:
    """Have grants fall due all the time, until the store is left: from then on a move takes no writes of others."""
    while not await redis.hexists("broker:{0}:meta", "move_to"):
        await redis.zadd("broker:{0}:due:acme", {random.choice(GRANTS): 1.0}, xx=True)
        await asyncio.sleep(0.005)


async def generations(redis: Redis) -> dict[str, int]:
    """Return the generation of each grant."""
    return {name: int(await redis.hget(f"broker:{{0}}:grant:{name}", "generation") or 0) for name in GRANTS}


async def check_of_redis(broker: RunningBroker) -> str:
    """Return what the broker says of its Redis."""
    try:
        async with broker.session.get(broker.url + "/readyz") as answer:
            return str((await answer.json())["checks"]["redis"])
    except aiohttp.ClientError:  # it is starting
        return ""


async def test_under_refreshing_load(
    start_broker: StartBroker,
    sandbox: Sandbox,
    redis: Redis,
    shared_redis: RedisServer,
    own_redis: RedisServer,
    tmp_path: Path,
) -> None:
    """Two brokers refresh at full speed while the store moves; then they run on the new Redis, and all is sound."""
    homes: list[dict[str, Any]] = [{"data_dir": tmp_path / name, "refresh": QUICK} for name in ("a", "b")]
    async with start_broker(**homes[0]) as one, start_broker(**homes[1]) as two:
        issued = [sandbox.rotating.issue().refresh_token or "" for _ in GRANTS]
        await asyncio.gather(*(one.import_(name, "acme", token) for name, token in zip(GRANTS, issued, strict=True)))
        load = asyncio.create_task(keep_due(redis))
        await until(lambda: len(two.events("grant.refreshed")) > 2 * len(GRANTS), 30)  # of both: they share a log
        async with moving(shared_redis.url, own_redis.url) as moves:
            done = await moves.run(wait_s=10)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        assert done.grants == len(GRANTS)
        for broker in (one, two):
            await until(partial(_says, broker, f"brought it to {own_redis.url}"))
        assert (await one.token("g0"))["expires_in"] > 0, "what is in memory is served"
        assert (await one.ask("GET", "/readyz"))[0] == 200, "and a load balancer leaves it callers"
    async with client(own_redis.port) as new:
        before_restart = await generations(new)
        tables = {"redis": {"url": own_redis.url}}
        async with start_broker(**homes[0], **tables) as one, start_broker(**homes[1], **tables):
            await make_due(new, "acme", *GRANTS)

            async def all_newer() -> bool:
                now = await generations(new)
                return all(now[name] > before_restart[name] for name in GRANTS)

            await until(all_newer, 30)
            await assert_sound(one, sandbox, *((name, "acme") for name in GRANTS))


async def _says(broker: RunningBroker, words: str) -> bool:
    return words in await check_of_redis(broker)


async def test_an_answer_that_arrives_after_the_store_was_left(
    start_broker: StartBroker,
    redis: Redis,
    shared_redis: RedisServer,
    own_redis: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The old store does not take it, the journal keeps it, and the new store has it before anybody claims there."""
    monkeypatch.setattr("broker.refresh.recorder.RECORD_LIMIT", 0.1)
    async with authorization_server() as server:
        tables: dict[str, Any] = {
            "data_dir": tmp_path / "a",
            "refresh": {**QUICK, "request_timeout": "5s", "lease": "11s"},
            "providers": {"as": provider_at(server)},
        }
        async with start_broker(**tables) as broker:
            body = {"provider": "as", "refresh_token": server.issue("g1")}
            assert (await broker.ask("PUT", "/v1/grants/g1", json=body))[0] == 201
            first = await broker.token("g1")
            answer = asyncio.Event()
            server.grant_steps["g1"].append(held_back(answer))
            before = len(server.requests_of("g1"))
            await fall_due(redis, "as", {"g1": 1.0})
            await until(lambda: len(server.requests_of("g1")) > before)
            async with moving(shared_redis.url, own_redis.url) as one:
                done = await one.run(wait_s=0.2)
            assert sum((done.unanswered or {}).values()) == 1
            answer.set()
            await until(lambda: broker.events("commit.delayed"))
            assert (await broker.token("g1"))["generation"] > first["generation"], "callers have it already"
        async with start_broker(**tables, redis={"url": own_redis.url}) as broker:
            await until(lambda: broker.events("journal.replayed"), 30)
            await until(lambda: stored_is_live(broker.settings, server))
        assert server.reuse == 0


async def test_a_broker_waits_for_a_store_that_is_arriving(
    start_broker: StartBroker,
    sandbox: Sandbox,
    redis: Redis,
    shared_redis: RedisServer,
    own_redis: RedisServer,
    tmp_path: Path,
) -> None:
    """Started on the new Redis too early it says so, and begins once the move has ended; an abort frees the old one."""
    home: dict[str, Any] = {"data_dir": tmp_path / "a", "refresh": QUICK}
    async with start_broker(**home) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        async with moving(shared_redis.url, own_redis.url) as one:
            old, _ = await one._begin()
            await one._hold_back(old)
            await until(lambda: _says(broker, "is being moved to"))
            await one.abort()
        await until(lambda: _says(broker, "'answers'"))
        await assert_sound(broker, sandbox, ("g1", "acme"))
    async with moving(shared_redis.url, own_redis.url) as one:
        old, new = await one._begin()
        await one._hold_back(old)
        async with start_broker(**home, redis={"url": own_redis.url}, wait=False) as broker:
            await until(lambda: _says(broker, "is arriving here from"))
            await one._fill(new)
            await one._leave()
            await one._open()
            broker.admin_key = (home["data_dir"] / "admin.key").read_text().strip()
            await until(lambda: _says(broker, "'ok'"))
            await assert_sound(broker, sandbox, ("g1", "acme"))
