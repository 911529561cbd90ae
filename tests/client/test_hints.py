"""News by Redis pub/sub: a hint that leads to a read, on one connection with no right but to listen."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from broker.client import Broker, Grant
from broker.sandbox import Sandbox
from broker.testing import FakeBroker
from tests.conftest import StartBroker
from tests.nonsense import NONSENSE
from tests.proxy import RedisProxy
from tests.redis_server import RedisServer, start_redis
from tests.steps import assert_sound, make_due
from tests.waiting import until

RIGHTS = [
    line.removeprefix("# user video-wall ").replace("#SHA256_OF_ITS_PASSWORD", ">secret").replace("acme-*", "*").split()
    for line in (Path(__file__).parents[2] / "deploy/redis/users.acl").read_text().splitlines()
    if line.startswith("# user video-wall ")
]


@pytest.fixture
async def listener(own_redis: RedisServer) -> AsyncIterator[tuple[RedisServer, Redis]]:
    """Yield a Redis whose user `video-wall` has the rights that deploy/ gives a consumer."""
    client = Redis.from_url(own_redis.url)
    await client.execute_command("ACL", "SETUSER", "video-wall", *RIGHTS[0])  # type: ignore[no-untyped-call]
    yield own_redis, client
    await client.aclose()


def as_consumer(port: int) -> str:
    return f"redis://video-wall:secret@127.0.0.1:{port}/0"


@contextlib.asynccontextmanager
async def following(server: RedisServer) -> AsyncIterator[tuple[Broker, Grant]]:
    """Yield a client that has a token of g1, and hears of the next."""
    async with Broker.from_env(redis_url=as_consumer(server.port)) as client:
        grant = client.grant("g1")
        await grant.token()
        await until(lambda: client.following.has(grant))
        yield client, grant


def polls(fake: FakeBroker) -> int:
    """Long polls that came."""
    return sum(asked.headers.get("Prefer") == "wait=50" for asked in fake.asked)


async def test_a_hint_leads_to_a_read(fake: FakeBroker, listener: tuple[RedisServer, Redis]) -> None:
    """One subscription and no poll; what is old news, or no news at all, is not read for."""
    server, redis = listener
    async with Broker.from_env(redis_url=as_consumer(server.port)) as client:
        grant = client.grant("g1")
        first = await grant.token()
        await until(lambda: client.following.has(grant))
        await until(lambda: not client.following._reads)  # type: ignore[attr-defined]
        asked = len(fake.asked)
        for old in (b"no JSON", b"[]", b"{}", json.dumps({"generation": first.generation}).encode()):
            await redis.publish("broker:tokens:g1", old)
        await asyncio.sleep(0.2)
        assert len(fake.asked) == asked
        rotated = fake.grants["g1"].rotate()
        message = json.dumps(
            {"event": "refreshed", "generation": fake.grants["g1"].generation, "access_token": "forged"}
        )
        await redis.publish("broker:tokens:g1", message)
        await until(lambda: (held := grant.at_hand()) and held.value == rotated, 2)
        assert polls(fake) == 0
        assert await redis.execute_command("PUBSUB", "NUMSUB", "broker:tokens:g1") == [b"broker:tokens:g1", 1]  # type: ignore[no-untyped-call]
        fake.forget("g1")
        await redis.publish("broker:tokens:g1", json.dumps({"event": "revoked", "generation": 1}))
        await until(lambda: grant.at_hand() is None, 2)


async def test_what_was_missed_is_read(fake: FakeBroker, listener: tuple[RedisServer, Redis]) -> None:
    """A rotation in a gap of the subscription is found when there is one again; meanwhile the token is there."""
    server, _ = listener
    async with (
        RedisProxy(server.port) as proxy,
        Broker.from_env(redis_url=as_consumer(int(proxy.url.rpartition(":")[2].partition("/")[0]))) as client,
    ):
        grant = client.grant("g1")
        first = await grant.token()
        await until(lambda: client.following.has(grant))
        proxy.down()
        await until(lambda: not client.following.has(grant))
        assert (await grant.token()).value == first.value
        rotated = fake.grants["g1"].rotate()
        proxy.up = True
        await until(lambda: (held := grant.at_hand()) and held.value == rotated, 10)


async def test_a_hint_while_the_broker_is_away(fake: FakeBroker, listener: tuple[RedisServer, Redis]) -> None:
    """A hint that cannot be followed yet is not forgotten."""
    server, redis = listener
    async with following(server) as (_, grant):
        fake.down()
        rotated = fake.grants["g1"].rotate()
        await redis.publish("broker:tokens:g1", json.dumps({"generation": fake.grants["g1"].generation}))
        await asyncio.sleep(0.3)
        fake.up()
        await until(lambda: (held := grant.at_hand()) and held.value == rotated, 10)


async def test_nobody_listens_for_what_is_not_used(
    fake: FakeBroker, listener: tuple[RedisServer, Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The channel of a grant that is used no longer is left, and taken up again when it is used again."""
    monkeypatch.setattr("broker.client.hints.IDLE", 0.2)
    server, redis = listener

    async def listeners() -> int:
        counted: list[int] = await redis.execute_command("PUBSUB", "NUMSUB", "broker:tokens:g1")  # type: ignore[no-untyped-call]
        return counted[1]

    async with Broker.from_env(redis_url=as_consumer(server.port)) as client:
        grant = client.grant("g1")
        await grant.token()

        async def left() -> bool:
            return await listeners() == 0

        await until(lambda: client.following.has(grant))
        await until(left)
        assert not client.following.has(grant)
        rotated = fake.grants["g1"].rotate()
        assert (await grant.token()).value == rotated
        monkeypatch.setattr("broker.client.hints.IDLE", 600)
        await grant.token()
        await until(lambda: client.following.has(grant))


async def test_nonsense_ends_nothing(fake: FakeBroker, listener: tuple[RedisServer, Redis]) -> None:
    """Whatever anybody publishes there, the client hears what comes next."""
    server, redis = listener
    async with following(server) as (client, grant):
        for odd in NONSENSE:
            await redis.publish("broker:tokens:g1", odd)
        rotated = fake.grants["g1"].rotate()
        message = {"event": "refreshed", "generation": fake.grants["g1"].generation}
        await redis.publish("broker:tokens:g1", json.dumps(message))
        await until(lambda: (held := grant.at_hand()) and held.value == rotated)
        assert client.following.has(grant)


async def test_with_a_real_broker(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, shared_redis: RedisServer
) -> None:
    """The messages of a real broker, in a namespace of its own for each environment."""
    async with start_broker() as running:
        await running.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        async with Broker(running.url, running.admin_key, redis_url=shared_redis.url) as client:
            grant = client.grant("g1")
            first = await grant.token()
            await until(lambda: client.following.has(grant))
            await make_due(redis, "acme", "g1")
            await until(lambda: (held := grant.at_hand()) and held.generation > first.generation, 5)
        await assert_sound(running, sandbox, ("g1", "acme"))


async def test_no_redis_is_no_reason_to_fail(fake: FakeBroker, tmp_path: Path) -> None:
    """Without its Redis the client reads as it must, at most once a second while the token lives."""
    server = start_redis(tmp_path)
    server.kill()
    async with Broker.from_env(redis_url=server.url) as client:
        grant = client.grant("g1")
        for _ in range(20):
            assert (await grant.token()).value == fake.grants["g1"].token
        assert len(fake.asked) <= 3
