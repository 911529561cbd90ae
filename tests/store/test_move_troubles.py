"""A move meets what it cannot use: it says which of the two Redis it is, and the way back stays open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.errors import DamagedSchedule, StoreUnavailable
from broker.store.moving import Ends, Move
from broker.store.redis.primary import Primary
from broker.store.redis.target import Target, of_target
from broker.store.scripts import Keys
from tests.redis_server import RedisServer, client
from tests.store.moves import BrokenOff, Plan, contents, move, moving, runs_in
from tests.store.steps import refreshed

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.store import Store

HELD_BACK = 3
"""The write after which the brokers of the old store are held back."""


async def test_a_damaged_set(store: Store, redis: Redis, shared_redis: RedisServer, own_redis: RedisServer) -> None:
    """Moved as it is; where it hides what is under way, the key is named and nothing was changed."""
    await refreshed(store, redis, "g1", "g2")
    await redis.set("broker:{0}:leased:p", "x")
    async with moving(shared_redis.url, own_redis.url) as one:
        with pytest.raises(DamagedSchedule, match=r"the key broker:\{0\}:leased:p holds something else than grants"):
            await one.run(wait_s=0.05)
    assert await runs_in(store, shared_redis)
    await redis.delete("broker:{0}:leased:p", "broker:{0}:due:p")
    await redis.set("broker:{0}:due:p", "x")
    before = await contents(redis)
    async with moving(shared_redis.url, own_redis.url) as one:
        assert await one.count_grants() == 0
        await one.run(wait_s=0.05)
    async with client(own_redis.port) as new:
        assert await contents(new) == before


async def test_a_full_target(store: Store, redis: Redis, shared_redis: RedisServer, own_redis: RedisServer) -> None:
    """It is named by its option, and the move can be aborted, though the target takes not even that."""
    await refreshed(store, redis, "g1", "g2")
    with pytest.raises(BrokenOff):
        await move(shared_redis.url, own_redis.url, Plan(HELD_BACK, after=True))
    assert not await runs_in(store, shared_redis)
    await own_redis.ask("CONFIG", "SET", "maxmemory", "1")
    source, target = Primary(shared_redis.url), Target(own_redis.url)
    one = Move(Ends(source, target, shared_redis.url, own_redis.url), Keys("broker"))
    try:
        with pytest.raises(StoreUnavailable, match=r"^--to: Redis refuses writes: its memory is full \(OOM\)$"):
            await one.run(wait_s=0.05)
        assert not await one.abort()
    finally:
        await source.close()
        await target.close()
    assert await runs_in(store, shared_redis)


def test_cures_name_the_options() -> None:
    """What is wrong with the new Redis is not to be corrected in the settings."""
    error = of_target(StoreUnavailable("Redis: cannot be reached", cure="correct redis.url, or redis.password_file"))
    assert (str(error), error.cure) == ("--to: Redis cannot be reached", "correct --to, or --to-password-file")
