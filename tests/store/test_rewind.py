"""Rewind: after the server's clock was set back, no lease and no token waits for the clock to catch up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from broker.secret import Sealer, parse_sealing_keys
from broker.settings import Redis as RedisSettings
from broker.store import open_store
from tests.store.steps import LEASE, claimed, commit_of, imported

if TYPE_CHECKING:
    from pathlib import Path

    from redis.asyncio import Redis

    from broker.store import Store
    from tests.redis_server import RedisServer

DAY = 86_400_000


async def test_no_lease_lasts_longer_than_a_lease(store: Store, redis: Redis) -> None:
    """A lease that ends tomorrow is cut to the length of a lease; one that ends sooner stays as it is."""
    await imported(store, "g1", "g2")
    await claimed(store, 2)
    now = store.clock()
    await redis.zadd("broker:{0}:leased:p", {"g1": now + DAY, "g2": now + 1_000})
    await store.schedule.rewind("p", LEASE)
    assert 0 <= (await redis.zscore("broker:{0}:leased:p", "g1") or 0) - now - LEASE < 5_000
    assert await redis.zscore("broker:{0}:leased:p", "g2") == now + 1_000


async def test_a_token_of_tomorrow_is_as_old_as_it_is(store: Store, redis: Redis) -> None:
    """A token issued "in the future" counts as issued now; it keeps its lifetime and the time until its refresh."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    await store.schedule.commit(store.registry.prepare(commit_of(claim)))
    grant, ahead = "broker:{0}:grant:g1", store.clock() + DAY
    plan = {"issued_at": ahead, "refresh_at": ahead + 2_700_000, "expires_at": ahead + 3_600_000}
    for name, at in plan.items():
        await redis.hset(grant, name, at)
    await redis.zadd("broker:{0}:due:p", {"g1": plan["refresh_at"]})
    now = store.clock()
    await store.schedule.rewind("p", LEASE)
    found = [int(value or 0) - now for value in await redis.hmget(grant, *plan)]
    assert found == [found[0], found[0] + 2_700_000, found[0] + 3_600_000]
    assert 0 <= found[0] < 5_000
    assert (await redis.zscore("broker:{0}:due:p", "g1") or 0) - now == found[1]


HOUR = 3_600_000
GRANT, DUE = "broker:{0}:grant:g1", "broker:{0}:due:p"
TIMES = ("issued_at", "refresh_at", "expires_at")


async def issued(store: Store, redis: Redis, age: int) -> list[int]:
    """Store a token that was issued *age* ms ago by the present clock and lives for eight hours; return its times."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    await store.schedule.commit(store.registry.prepare(commit_of(claim)))
    at = store.clock() - age
    plan = [at, at + 6 * HOUR, at + 8 * HOUR]
    await redis.hset(GRANT, mapping=dict(zip(TIMES, plan, strict=True)))
    await redis.zadd(DUE, {"g1": plan[1]})
    return plan


def set_back(store: Store, hours: int) -> int:
    """Have the broker find that the clock, as it is now, was set back; return by how much."""
    now = store.clock()
    store.clock.observe(now + hours * HOUR, time.monotonic())
    store.clock.observe(now, time.monotonic())
    assert store.clock.set_back is not None
    return store.clock.set_back.by


# By the clock after it was set back by two hours: issued in the "future"; just before it; and, by that clock, long ago.
@pytest.mark.parametrize("age", [-HOUR, -2 * HOUR, HOUR, 3 * HOUR])
async def test_a_known_step_moves_every_life_once(
    store: Store, redis: Redis, shared_redis: RedisServer, key: str, tmp_path: Path, age: int
) -> None:
    """Times move by the step, whoever reads or rewinds, before or after; a second rewind moves nothing."""
    plan = await issued(store, redis, age)
    sealer = Sealer(parse_sealing_keys(key))
    async with open_store(RedisSettings(url=shared_redis.url), sealer, data_dir=tmp_path) as other:
        await other.identify()
        back = [set_back(each, 2) for each in (store, other)]
        assert back == pytest.approx([2 * HOUR] * 2, abs=2_000)
        expected = pytest.approx([at - 2 * HOUR for at in plan], abs=2_500)
        for each in (store, other):  # before anybody rewinds, and in between
            grant = await each.grants.get("g1")
            assert grant is not None
            assert grant.token is not None
            assert [grant.token.issued_at, grant.token.refresh_at, grant.token.expires_at] == expected
            assert abs(await each.schedule.rewind("p", LEASE) - 2 * HOUR) < 2_000
            assert [int(at or 0) for at in await redis.hmget(GRANT, *TIMES)] == expected
            assert await redis.zscore(DUE, "g1") == pytest.approx(plan[1] - 2 * HOUR, abs=2_500)
            grant = await each.grants.get("g1")
            assert grant is not None
            assert grant.token is not None
            assert grant.token.expires_at == pytest.approx(plan[2] - 2 * HOUR, abs=2_500)
    async with open_store(RedisSettings(url=shared_redis.url), sealer, data_dir=tmp_path) as later:
        await later.identify()
        grant = await later.grants.get("g1")
        assert grant is not None
        assert grant.refresh_at == pytest.approx(plan[1] - 2 * HOUR, abs=2_500)


async def test_a_token_that_came_after_the_step_stays(store: Store, redis: Redis) -> None:
    """Only what was issued before the step is moved."""
    set_back(store, 2)
    plan = await issued(store, redis, 0)
    grant = await store.grants.get("g1")
    assert grant is not None
    assert grant.refresh_at == plan[1]
    await store.schedule.rewind("p", LEASE)
    assert [int(at or 0) for at in await redis.hmget(GRANT, *TIMES)] == plan
    assert await redis.zscore(DUE, "g1") == plan[1]


async def test_what_is_parked_moves_too(store: Store, redis: Redis) -> None:
    """A parked grant's token is served to its true end."""
    plan = await issued(store, redis, -HOUR)
    await redis.zrem(DUE, "g1")
    await redis.zadd("broker:{0}:parked:p", {"g1": plan[0]})
    set_back(store, 2)
    await store.schedule.rewind("p", LEASE)
    expected = pytest.approx([at - 2 * HOUR for at in plan], abs=2_500)
    assert [int(at or 0) for at in await redis.hmget(GRANT, *TIMES)] == expected
