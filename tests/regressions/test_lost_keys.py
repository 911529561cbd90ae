"""One of the store's own keys is gone, by eviction or by hand: the broker mends it or says so, and refreshes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.steps import assert_sound, make_due, next_generation
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker


@pytest.mark.parametrize("key", ["epoch", "provider:acme", "history:acme", "attempts:g1"])
async def test_a_key_that_brokers_make_anew(broker: RunningBroker, sandbox: Sandbox, redis: Redis, key: str) -> None:
    """Refreshes go on; after a lost epoch the journal is replayed before."""
    await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
    before = await broker.token("g1")
    await redis.delete(f"broker:{{0}}:{key}")
    await make_due(redis, "acme", "g1")
    await next_generation(broker, "g1", before["generation"], 30)
    await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_a_store_without_its_mark_is_named(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """In the log, by health and in a metric; tokens in memory are served, and all goes on once the mark is back."""
    await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
    token = await broker.token("g1")
    mark: Any = await redis.hgetall("broker:{0}:meta")
    await redis.delete("broker:{0}:meta")
    await until(lambda: broker.events("store.lost"), 10)
    check = (await broker.get("/healthz"))["checks"]["redis"]
    assert check["status"] != "ok"
    assert "holds no token-broker data" in check["detail"]
    assert "token_broker_store_up 0.0" in (await broker.get("/metrics"))["text"]
    assert (await broker.token("g1"))["generation"] == token["generation"]
    await redis.hset("broker:{0}:meta", mapping=mark)
    await until(lambda: broker.events("store.found"), 10)
    await make_due(redis, "acme", "g1")
    await next_generation(broker, "g1", token["generation"])
    await assert_sound(broker, sandbox, ("g1", "acme"))
