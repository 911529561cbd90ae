"""What is said again to a store, in which order, and that whoever waits for it lives."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from broker.journal import replay as replay_module
from broker.journal.journal import Journal
from broker.journal.replay import Replay
from broker.secret import Sealer, new_sealing_key, parse_sealing_keys
from broker.settings import Redis as RedisSettings
from broker.store import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from redis.asyncio import Redis

    from broker.store import Store
    from tests.redis_server import RedisServer


@asynccontextmanager
async def replaying(url: str, folder: Path) -> AsyncIterator[tuple[Store, Journal, Replay]]:
    """Yield a store, a journal and what tells the one of the other."""
    sealer = Sealer(parse_sealing_keys(new_sealing_key()))
    async with open_store(RedisSettings(url=url), sealer, data_dir=folder) as store:
        await store.identify()
        journal = await Journal.open(folder / "journal", sealer, store.clock)
        yield store, journal, Replay(store, journal)
        await journal.close()


def forgotten(store: Store, grant: str) -> str:
    """Return the shortest record there is."""
    return store.registry.forgot(store.store_id, grant, 1)


@pytest.mark.parametrize("at_once", [False, True])
async def test_what_may_be_lost_is_said_first(
    shared_redis: RedisServer, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, at_once: bool
) -> None:
    """A failover loses the newest: others claim again when the fence opens, told by us or not."""
    del redis
    monkeypatch.setattr(replay_module, "_AT_ONCE", 1)
    async with replaying(shared_redis.url, tmp_path) as (store, journal, replay):
        if at_once:  # all within one millisecond
            monkeypatch.setattr(type(store.clock), "__call__", lambda _: 1_700_000_000_000)
        for name in ("a", "b", "c", "d"):
            (await journal.append(name, forgotten(store, name))).settled = True
        await journal.append("c", forgotten(store, "unsettled"))
        (await journal.append("a", forgotten(store, "newest"))).settled = True
        said: list[str] = []
        forget = store.registry.forget

        async def heard(grant: str, *args: Any, **options: Any) -> bool:
            said.append(grant)
            return await forget(grant, *args, **options)

        monkeypatch.setattr(type(store.registry), "forget", lambda _, *args, **options: heard(*args, **options))
        await replay.fence(1, lambda: None)
        assert said == ["unsettled", "newest", "d", "b"]


@pytest.mark.parametrize("how", ["fence", "unsettled", "everything"])
async def test_who_waits_for_another_to_tell_lives(
    shared_redis: RedisServer, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """However long one lane's replay takes, both go on beating; a cancelled wait takes no turn away."""
    del redis
    monkeypatch.setattr(replay_module, "_BEAT", 0.02)
    monkeypatch.setattr(replay_module, "_AT_ONCE", 1)
    async with replaying(shared_redis.url, tmp_path) as (store, journal, replay):
        for number in range(20):
            await journal.append(f"g{number}", forgotten(store, f"g{number}"))
        forget = store.registry.forget

        async def slow(*args: Any, **options: Any) -> bool:
            await asyncio.sleep(0.02)
            return await forget(*args, **options)

        monkeypatch.setattr(type(store.registry), "forget", lambda _, *args, **options: slow(*args, **options))
        calls = {"first": 0, "second": 0, "cancelled": 0}

        def count_for(who: str) -> Callable[[], None]:
            return lambda: calls.update({who: calls[who] + 1})

        async def tell(who: str) -> None:
            await (replay.fence(1, count_for(who)) if how == "fence" else getattr(replay, how)(count_for(who)))

        first = asyncio.create_task(tell("first"))
        await asyncio.sleep(0.05)
        second, cancelled = asyncio.create_task(tell("second")), asyncio.create_task(tell("cancelled"))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        await asyncio.wait_for(first, 10)
        assert calls["first"] == 20
        assert calls["second"] >= 5
        await asyncio.wait_for(second, 10)
        await asyncio.wait_for(replay.fence(2, count_for("second")), 10)
        assert cancelled.cancelled()
