"""Rewind: after the server's clock was set back, no lease and no token waits for the clock to catch up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from broker.secret import Sealer, parse_sealing_keys
from broker.settings import Redis as RedisSettings
from broker.store import open_store
from tests.store.steps import LEASE, claimed, commit_of, imported

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
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
    await store.clock_steps.rewind("p", LEASE)
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
    await store.clock_steps.rewind("p", LEASE)
    found = [int(value or 0) - now for value in await redis.hmget(grant, *plan)]
    assert found == [found[0], found[0] + 2_700_000, found[0] + 3_600_000]
    assert 0 <= found[0] < 5_000
    assert (await redis.zscore("broker:{0}:due:p", "g1") or 0) - now == found[1]


HOUR = 3_600_000
GRANT, DUE = "broker:{0}:grant:g1", "broker:{0}:due:p"
TIMES = ("issued_at", "refresh_at", "expires_at")


@pytest.fixture
async def other(store: Store, shared_redis: RedisServer, key: str, tmp_path: Path) -> AsyncIterator[Store]:
    """Yield the same store as another broker has it."""
    del store
    sealer = Sealer(parse_sealing_keys(key))
    async with open_store(RedisSettings(url=shared_redis.url), sealer, data_dir=tmp_path) as opened:
        await opened.identify()
        yield opened


async def issued(store: Store, redis: Redis, age: int, *, stamp: str | None = None) -> list[int]:
    """Store a token that was issued *age* ms ago by the present clock and lives for eight hours; return its times."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    commit, at = commit_of(claim), store.clock() - age
    plan = [at, at + 6 * HOUR, at + 8 * HOUR]
    assert commit.token is not None
    token = replace(commit.token, issued_at=plan[0], refresh_at=plan[1], expires_at=plan[2])
    await store.schedule.commit(store.registry.prepare(replace(commit, token=token, refresh_at=plan[1])))
    await redis.hset(GRANT, mapping={"granted_at": at, "clock_offset": f"0 {at}" if stamp is None else stamp})
    return plan


async def stepped(ms: int, *stores: Store) -> None:
    """Have brokers see that the clock was stepped by so many ms, to where it is now."""
    for store in stores:
        await store.clock_steps.agree()
    for store in stores:
        assert store.clock.steady is not None
        store.clock.steady -= ms
    for store in stores:
        await store.clock_steps.agree()


async def served(store: Store) -> list[int]:
    """Return the times of the token as callers get it."""
    grant = await store.grants.get("g1")
    assert grant is not None
    assert grant.token is not None
    return [grant.token.issued_at, grant.token.refresh_at, grant.token.expires_at]


async def stored(redis: Redis) -> list[int]:
    return [int(at or 0) for at in await redis.hmget(GRANT, *TIMES)]


# By the clock after it was set back by two hours: issued in the "future", just before the step, and long ago.
@pytest.mark.parametrize("age", [-HOUR, -2 * HOUR, HOUR, 3 * HOUR])
async def test_a_step_back_moves_every_life_once(store: Store, other: Store, redis: Redis, age: int) -> None:
    """Times move by the step, whoever reads or rewinds, and however often."""
    plan = await issued(store, redis, age)
    await stepped(-2 * HOUR, store, other)
    expected = [at - 2 * HOUR for at in plan]
    for each in (store, other):
        assert (await served(each))[1:] == pytest.approx(expected[1:], abs=100)
        await each.clock_steps.rewind_all(["p"], LEASE)
        assert [await redis.zscore(DUE, "g1"), *(await stored(redis))[1:]] == pytest.approx(
            [expected[1], *expected[1:]], abs=100
        )
        assert (await served(each))[1:] == pytest.approx(expected[1:], abs=100)
    assert not await other.clock_steps.agree(), "it is known to have been done"


async def test_a_step_that_is_seen_in_two_parts_moves_a_life_once(store: Store, other: Store, redis: Redis) -> None:
    """Two steps in quick succession: the times move by both before the second one is recorded, and then no more."""
    both = 2 * HOUR + 60_000
    plan = await issued(store, redis, -both)
    await stepped(-2 * HOUR, store, other)
    expected = [at - both for at in plan]
    await store.clock_steps.rewind_all(["p"], LEASE)
    assert (await stored(redis))[1:] == pytest.approx(expected[1:], abs=500)
    await stepped(-60_000, store, other)
    for each in (store, other):
        await each.clock_steps.rewind_all(["p"], LEASE)
        assert (await stored(redis))[1:] == pytest.approx(expected[1:], abs=500)
        assert (await served(each))[1:] == pytest.approx(expected[1:], abs=500)


async def test_a_grant_keeps_its_token(store: Store, redis: Redis) -> None:
    """A token that is moved to before the login, which is not moved, still is of it."""
    plan = await issued(store, redis, 3 * HOUR)
    await stepped(-2 * HOUR, store)
    await store.clock_steps.rewind_all(["p"], LEASE)
    assert (await stored(redis))[0] == plan[0]


@pytest.mark.parametrize("state", ["parked", "leased"])
async def test_what_is_not_due_moves_too(store: Store, redis: Redis, state: str) -> None:
    """The token of a parked grant, and of one that is being refreshed, is served to its true end."""
    plan = await issued(store, redis, HOUR)
    await redis.zrem(DUE, "g1")
    await redis.zadd(f"broker:{{0}}:{state}:p", {"g1": plan[0]})
    await stepped(-2 * HOUR, store)
    await store.clock_steps.rewind_all(["p"], LEASE)
    assert (await stored(redis))[2] == pytest.approx(plan[2] - 2 * HOUR, abs=100)
    left = await redis.zscore(f"broker:{{0}}:{state}:p", "g1")
    assert left == pytest.approx(plan[0] - (2 * HOUR if state == "parked" else 0), abs=100)


# What was issued before the clock was ahead; while it was; and by a broker that keeps no offsets, before and meanwhile.
@pytest.mark.parametrize(
    ("age", "stamp", "moved"),
    [(HOUR, None, 0), (-23 * HOUR, "ahead", DAY), (HOUR, "", 0), (-23 * HOUR, "", DAY)],
)
async def test_ahead_and_back(store: Store, redis: Redis, age: int, stamp: str | None, moved: int) -> None:
    """Only what was issued while the clock was ahead moves."""
    plan = await issued(store, redis, age, stamp=stamp)
    if stamp == "ahead":
        await redis.hset(GRANT, "clock_offset", f"{DAY} {plan[0]}")
    await stepped(DAY, store)
    await stepped(-DAY, store)
    plan_after = [at - moved for at in plan]
    expected = pytest.approx(plan_after, abs=100)
    assert await served(store) == expected
    await store.clock_steps.rewind_all(["p"], LEASE)
    assert (await stored(redis))[1:] == (await served(store))[1:] == pytest.approx(plan_after[1:], abs=100)
    assert await redis.zscore(DUE, "g1") == pytest.approx(plan[1] - moved, abs=100)


async def test_a_token_that_came_after_the_step_stays(store: Store, redis: Redis) -> None:
    """Also one of a broker that keeps no offsets."""
    await stepped(-2 * HOUR, store)
    plan = await issued(store, redis, 0, stamp="")
    await store.clock_steps.rewind_all(["p"], LEASE)
    assert await stored(redis) == await served(store) == plan


async def test_a_broker_that_stood_still_is_corrected(store: Store, other: Store) -> None:
    """Where only one broker sees the clock jump ahead, that broker stood still: the others say so, and it agrees."""
    for each in (store, other):
        await each.clock_steps.agree()
    await stepped(HOUR, store)
    assert store.clock.offset == pytest.approx(HOUR, abs=100)
    for each in (other, store, other, store):
        await each.clock_steps.agree()
        assert each.clock.offset == pytest.approx(0, abs=100)


async def test_a_lost_offset_comes_back(store: Store, redis: Redis) -> None:
    """A running broker restores what was agreed on when the key is lost."""
    await stepped(-2 * HOUR, store)
    await redis.delete("broker:{0}:epoch")
    await store.clock_steps.agree()
    assert int(await redis.hget("broker:{0}:epoch", "offset") or 0) == pytest.approx(-2 * HOUR, abs=100)


@pytest.mark.parametrize("how", ["import", "failure"])
async def test_a_plan_of_a_broker_that_had_not_seen_the_step(store: Store, redis: Redis, how: str) -> None:
    """What it made due by the old time is due as soon as it was meant to be, also once the step counts as seen."""
    await imported(store, "g1")
    await store.clock_steps.rewind_all(["p"], LEASE)
    ahead = store.clock() + 2 * HOUR
    if how == "failure":
        await redis.hset(GRANT, mapping={"failures": 2, "last_at": ahead})
    else:
        await redis.hset(GRANT, "granted_at", ahead)
    await redis.zadd(DUE, {"g1": ahead - 10})
    await store.clock_steps.rewind_all(["p"], LEASE)
    assert (await redis.zscore(DUE, "g1") or 0) < store.clock() + 5_000
