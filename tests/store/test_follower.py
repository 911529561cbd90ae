"""The follower on a real server: it finds out what no message said."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from broker.process.heartbeat import Heartbeat
from broker.process.metrics import Metrics
from broker.read import Cache, Follower
from tests.nonsense import NONSENSE
from tests.store.steps import claimed, commit_of, imported
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

    from broker.store import Store


async def test_a_lost_message_is_made_up_for_under_traffic(store: Store, redis: Redis) -> None:
    """What should have been refreshed by now is looked up, however much is published about others."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    commit = commit_of(claim)
    await store.schedule.commit(store.registry.prepare(commit))
    assert commit.token is not None
    lost = commit.token.generation + 7
    cache = Cache(10)
    follower = Follower(store, cache, Metrics(), Heartbeat("follower"), namespace="broker", report=lambda _: None)
    stopping = asyncio.Event()

    async def talk() -> None:
        while not stopping.is_set():
            await redis.publish("broker:tokens:other", "{}")
            await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        group.create_task(follower.run(stopping))
        group.create_task(talk())
        await until(lambda: follower.connected)
        cache.put(replace(commit.token, refresh_at=1))
        await redis.hincrby("broker:{0}:grant:g1", "generation", 7)  # committed, and the message was lost
        await until(lambda: (held := cache.get("g1")) and held.generation == lost)
        stopping.set()


async def test_a_subscription_begins_with_what_was_missed(store: Store) -> None:
    """A new subscription begins with a read of what was committed before it, long before that is overdue."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    commit = commit_of(claim)
    await store.schedule.commit(store.registry.prepare(commit))
    assert commit.token is not None
    cache = Cache(10)
    cache.put(replace(commit.token, generation=commit.token.generation - 1))
    follower = Follower(store, cache, Metrics(), Heartbeat("follower"), namespace="broker", report=lambda _: None)
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(follower.run(stopping))
        await until(lambda: follower.connected)
        stopping.set()
        assert cache.get("g1") == commit.token


async def test_a_slow_store_is_no_silence(store: Store, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads again each of many grants that changed at once, from a store that takes its time, is alive."""
    cache = Cache(100, warm=lambda grant_id: grant_id.startswith("acme-"))
    heartbeat = Heartbeat("follower")
    follower = Follower(store, cache, Metrics(), heartbeat, namespace="broker", report=lambda _: None)
    stopping, silences = asyncio.Event(), [0.0]

    async def slow(ids: Sequence[str]) -> list[Any]:
        await asyncio.sleep(0.1)
        silences.append(heartbeat.silent_for())
        return [None] * len(ids)

    monkeypatch.setattr(store.grants, "get_many", slow)
    async with asyncio.TaskGroup() as group:
        group.create_task(follower.run(stopping))
        await until(lambda: follower.connected)
        async with redis.pipeline(transaction=False) as pipe:
            for number in range(20):
                message = {"store": store.store_id, "generation": 1, "event": "refreshed"}
                _ = pipe.publish(f"broker:tokens:acme-{number}", json.dumps(message))
            await pipe.execute()
        await until(lambda: len(silences) > 20)
        stopping.set()
    assert max(silences) < 1


@pytest.mark.parametrize("odd", NONSENSE, ids=range(len(NONSENSE)))
async def test_nonsense_on_a_channel_ends_nothing(store: Store, redis: Redis, odd: bytes) -> None:
    """Whatever anybody publishes on the broker's channels, the follower goes on, and receives the next message."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    commit = commit_of(claim)
    assert commit.token is not None
    cache = Cache(10, warm=lambda _: True)
    follower = Follower(store, cache, Metrics(), Heartbeat("follower"), namespace="broker", report=lambda _: None)
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(follower.run(stopping))
        await until(lambda: follower.connected)
        await redis.publish("broker:tokens:g1", odd.replace(b"%s", store.store_id.encode()))
        refreshed = {"generation": commit.token.generation, "event": "refreshed"}
        await store.schedule.commit(store.registry.prepare(commit), [refreshed])
        await until(lambda: "g1" in cache)
        stopping.set()
