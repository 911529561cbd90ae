"""Whoever can write Redis, but has no sealing key, sends no refresh token astray and has no dead token served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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


@pytest.mark.parametrize("how", ["no hash", "a time", "bytes"])
async def test_one_damaged_grant_hides_no_other(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, how: str
) -> None:
    """Lists, metrics and explanations go on and name it, the others are served, and an import heals it."""
    async with start_broker(metrics={"max_grants": 10}) as broker:
        for name in ("g1", "g2"):
            await broker.import_(name, "acme", sandbox.rotating.issue().refresh_token or "")
            await broker.token(name)
        if how == "no hash":
            await redis.set(HASH, "x", keepttl=False)
        else:
            await redis.hset(HASH, mapping={"generation": "x"} if how == "a time" else {"scope": b"\xff"})
        await redis.zadd("broker:{0}:due:acme", {"g1": 1, "g2": 1})

        async def named() -> bool:
            return bool(broker.events("grant.tampered") or broker.events("grant.parked"))

        await until(named)
        for query in ("", "?order=urgent", "?state=parked", "?search=g"):
            status, listed, _ = await broker.ask("GET", f"/v1/grants{query}")
            rows = {row["grant_id"]: row for row in listed["grants"]}
            assert (status, rows["g1"]["unreadable"], rows["g1"]["provider"]) == (200, True, "acme"), query
        assert (await broker.get("/v1/grants/g1"))["reason"] == "tampered"
        assert "find out who writes Redis" in (await broker.get("/v1/grants/g1"))["last"]["detail"]
        assert (await broker.ask("GET", "/v1/grants/g1/attempts"))[0] == 200
        assert (await broker.ask("GET", "/v1/grants/g1/token"))[0] in {200, 503}  # from memory, or refused
        for path in ("/metrics", "/v1/verdict", "/healthz"):
            assert (await broker.ask("GET", path))[0] == 200, path
        assert (await broker.get("/v1/providers"))["providers"]
        token = await broker.token("g2")
        assert sandbox.rotating.is_live_access(token["access_token"])
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")

        async def healed() -> bool:
            return not (await broker.get("/v1/grants/g1"))["unreadable"]

        await until(healed)
        assert sandbox.rotating.is_live_access((await broker.token("g1"))["access_token"])
