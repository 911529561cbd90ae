"""What a replay sends, in which order, and that loops which wait for it signal their heartbeats."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from broker.journal import replay as replay_module
from broker.journal.journal import Journal
from broker.journal.replay import Replay
from broker.process.heartbeat import Heartbeat
from broker.secret import Sealer, new_sealing_key, parse_sealing_keys
from broker.settings import Redis as RedisSettings
from broker.store import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
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


class Counting(Heartbeat):
    """A heartbeat that counts its signals."""

    signals = 0

    def signal(self, allow: float = 0.0) -> None:
        super().signal(allow)
        self.signals += 1


def forgotten(store: Store, grant: str) -> str:
    """Return the shortest record there is."""
    return store.registry.forget_record(grant, 1)


@pytest.mark.parametrize("at_once", [False, True])
async def test_what_may_be_lost_is_replayed_first(
    shared_redis: RedisServer, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, at_once: bool
) -> None:
    """A failover loses the newest entries: they come first, since others claim again when the fence opens."""
    del redis
    monkeypatch.setattr(replay_module, "_AT_ONCE", 1)
    async with replaying(shared_redis.url, tmp_path) as (store, journal, replay):
        if at_once:  # all within one millisecond
            monkeypatch.setattr(type(store.clock), "__call__", lambda _: 1_700_000_000_000)
        for name in ("a", "b", "c", "d"):
            (await journal.append(name, forgotten(store, name))).recorded = True
        await journal.append("c", forgotten(store, "unrecorded"))
        (await journal.append("a", forgotten(store, "newest"))).recorded = True
        said: list[str] = []
        forget = store.registry.forget

        async def heard(grant: str, *args: Any, **options: Any) -> bool:
            said.append(grant)
            return await forget(grant, *args, **options)

        monkeypatch.setattr(type(store.registry), "forget", lambda _, *args, **options: heard(*args, **options))
        await replay.fence(1, Heartbeat("lane"))
        assert said == ["unrecorded", "newest", "d", "b"]


@pytest.mark.parametrize("how", ["fence", "unrecorded", "everything"])
async def test_lanes_signal_while_another_replays(
    shared_redis: RedisServer, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """However long one lane's replay takes, both lanes signal; a cancelled wait takes no turn away."""
    del redis
    monkeypatch.setattr(replay_module, "_SIGNAL_EVERY", 0.02)
    monkeypatch.setattr(replay_module, "_AT_ONCE", 1)
    async with replaying(shared_redis.url, tmp_path) as (store, journal, replay):
        for number in range(20):
            await journal.append(f"g{number}", forgotten(store, f"g{number}"))
        forget = store.registry.forget

        async def slow(*args: Any, **options: Any) -> bool:
            await asyncio.sleep(0.02)
            return await forget(*args, **options)

        monkeypatch.setattr(type(store.registry), "forget", lambda _, *args, **options: slow(*args, **options))
        heartbeats = {who: Counting(who) for who in ("first", "second", "cancelled")}

        async def replayed(who: str) -> None:
            await (replay.fence(1, heartbeats[who]) if how == "fence" else getattr(replay, how)(heartbeats[who]))

        first = asyncio.create_task(replayed("first"))
        await asyncio.sleep(0.05)
        second, cancelled = asyncio.create_task(replayed("second")), asyncio.create_task(replayed("cancelled"))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        await asyncio.wait_for(first, 10)
        assert heartbeats["first"].signals == 20
        assert heartbeats["second"].signals >= 5
        await asyncio.wait_for(second, 10)
        await asyncio.wait_for(replay.fence(2, heartbeats["second"]), 10)
        assert cancelled.cancelled()
