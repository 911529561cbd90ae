"""A caller that is taken out of the settings: what it gets no more, and what it has."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.conftest import provider_settings
from tests.regressions.process import broker_process
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.redis_server import RedisServer

KEY = "k" * 40
CALLER = '[callers.poller]\nkey_sha256 = "%s"\nread = ["%s"]\n'


@pytest.mark.parametrize("left", ["", CALLER], ids=["removed", "may read another grant"])
async def test_a_long_poll_ends_with_the_right_to_it(
    tmp_path: Path, shared_redis: RedisServer, redis: Redis, sandbox: Sandbox, left: str
) -> None:
    """After SIGHUP the waiting request is refused at once, and one of a caller that stays goes on."""
    from broker.secret import key_digest

    del redis
    providers = {"acme": provider_settings(sandbox)["acme"]}
    async with broker_process(tmp_path / "broker", shared_redis.url, providers) as broker:
        settings = broker.folder / "broker.toml"
        alone = settings.read_text()
        settings.write_text(alone + CALLER % (key_digest(KEY), "g*"))
        await broker.hang_up()
        await broker.put("g", sandbox.rotating.issue().refresh_token or "", "acme")
        await until(lambda: broker.has_token("g"))
        etag = f'"{(await broker.get("/v1/grants/g/token"))["generation"]}"'
        headers = {"If-None-Match": etag, "Prefer": "wait=50"}
        own = {**headers, "X-Broker-Key": KEY}
        removed = asyncio.create_task(broker.ask("GET", "/v1/grants/g/token", headers=own))
        stays = asyncio.create_task(broker.ask("GET", "/v1/grants/g/token", headers=headers))

        async def both_wait() -> bool:
            return (await broker.metrics())["token_broker_subscribers", ""] == 2

        await until(both_wait)
        settings.write_text(alone + (left and left % (key_digest(KEY), "other")))
        await broker.hang_up()
        status, body, _ = await asyncio.wait_for(removed, 10)
        assert (status, body["error"]) == ((403, "access_denied") if left else (401, "invalid_token"))
        assert not stays.done()
        stays.cancel()
        await asyncio.gather(stays, return_exceptions=True)


async def test_a_token_that_was_read_outlives_the_right_to_it(
    tmp_path: Path, shared_redis: RedisServer, redis: Redis, sandbox: Sandbox
) -> None:
    """A removed caller gets no other token; the one that it has lives until its own end, or until a logout."""
    from broker.secret import key_digest

    del redis
    acme = sandbox.rotating
    async with broker_process(
        tmp_path / "broker", shared_redis.url, {"acme": provider_settings(sandbox)["acme"]}
    ) as broker:
        settings = broker.folder / "broker.toml"
        alone = settings.read_text()
        settings.write_text(alone + CALLER % (key_digest(KEY), "g*"))
        await broker.hang_up()
        await broker.put("g", acme.issue().refresh_token or "", "acme")
        await until(lambda: broker.has_token("g"))
        own = {"X-Broker-Key": KEY}
        _, body, _ = await broker.ask("GET", "/v1/grants/g/token", headers=own)
        settings.write_text(alone)
        await broker.hang_up()
        assert (await broker.ask("GET", "/v1/grants/g/token", headers=own))[0] == 401
        assert acme.is_live_access(body["access_token"])
        clock, ends_at = acme.clock, body["expires_at"]
        acme.clock = lambda: ends_at + 1.0
        assert not acme.is_live_access(body["access_token"])
        acme.clock = clock
        status, ended, _ = await broker.ask("DELETE", "/v1/grants/g")
        assert (status, ended["revoked"]) == (200, True)
        assert not acme.is_live_access(body["access_token"])
