"""Whoever can write Redis, but has no sealing key, sends no refresh token astray and has no dead token served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import StartBroker

HASH = "broker:{0}:grant:g1"


async def test_no_refresh_token_goes_to_another_provider(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis
) -> None:
    """The grant is parked as `tampered` and named, the other provider is sent nothing, and a login heals it."""
    async with start_broker() as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        await broker.token("g1")
        asked = len(sandbox.cameramanager.token_requests)
        await redis.hset(HASH, "provider", "cameramanager")
        await redis.zrem("broker:{0}:due:acme", "g1")
        await redis.zadd("broker:{0}:due:cameramanager", {"g1": 1})

        async def parked() -> bool:
            return await redis.zscore("broker:{0}:parked:cameramanager", "g1") is not None

        await until(parked)
        grant = await broker.get("/v1/grants/g1")
        assert grant["reason"] == "tampered"
        assert "of provider acme, and stands in a grant of cameramanager" in grant["last"]["detail"]
        assert len(sandbox.cameramanager.token_requests) == asked
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        assert sandbox.rotating.is_live_access((await broker.token("g1"))["access_token"])


async def test_no_dead_token_is_advertised(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A token whose end was moved to another century is served until its own end and no longer."""
    async with start_broker() as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        until_then = (await broker.token("g1"))["expires_at"]
    await redis.hset(HASH, mapping={"expires_at": 9_999_999_999_999, "refresh_at": 9_999_999_999_999})
    await redis.zadd("broker:{0}:due:acme", {"g1": 9_999_999_999_999})
    async with start_broker() as broker:
        assert (await broker.token("g1"))["expires_at"] == until_then
