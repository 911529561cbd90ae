"""What a commit or an outcome that is repeated, or that meets a store that went back, does there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from broker.model import Postpone
from tests.store.steps import claimed, commit_of, imported, sets

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.store import Store


async def test_a_commit_of_the_same_generation_is_written_once(store: Store, redis: Redis) -> None:
    """An answer without a new access token keeps the generation: only its attempt shows that it was stored."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    commit = replace(commit_of(claim), token=None)
    assert (await store.schedule.commit(store.registry.prepare(commit)))[0] == "committed"
    await redis.zadd("broker:{0}:due:p", {"g1": 1})
    (again,) = await claimed(store)
    assert (await store.schedule.commit(store.registry.prepare(commit)))[0] == "already"
    assert await sets(redis, "g1") == ["leased"]  # the next attempt's lease stands
    assert await redis.hget("broker:{0}:grant:g1", "attempt") == again.attempt.encode()


async def test_a_store_that_went_back_loses_a_commit(store: Store, redis: Redis) -> None:
    """A generation older than the one claimed is of a store that lost writes: the new token is kept, not revoked."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    await redis.hset("broker:{0}:grant:g1", "generation", claim.generation - 1)
    assert (await store.schedule.commit(store.registry.prepare(commit_of(claim))))[0] == "lost"


@pytest.mark.parametrize("provider", ["p", "q"])
@pytest.mark.parametrize("parked", [False, True], ids=["due", "parked"])
async def test_an_unknown_outcome_meets_a_store_that_went_back(
    store: Store, redis: Redis, provider: str, parked: bool
) -> None:
    """It is not lost for the same refresh token, and moves no grant out of the set, or provider, that it went back to.

    The grant was at *provider*, due or parked; since then it was claimed at "p", and the store lost all of that.
    """
    await imported(store, "g1")
    (claim,) = await claimed(store)
    await redis.hdel("broker:{0}:grant:g1", "attempt", "attempt_at", "attempt_by")
    await redis.hset("broker:{0}:grant:g1", "provider", provider)
    await redis.zrem("broker:{0}:leased:p", "g1")
    state = "parked" if parked else "due"
    await redis.zadd(f"broker:{{0}}:{state}:{provider}", {"g1": 1})
    step = Postpone(claim, "unknown", "reset", "", claim.claimed_at + 1000, 1, unknown=True)
    recorded = await store.schedule.postpone(step, None)
    assert recorded == ("postponed" if (provider, parked) == ("p", False) else "superseded")
    assert [await sets(redis, "g1", name) for name in ("p", "q")].count([state]) == 1
    assert await sets(redis, "g1", provider) == [state]
    assert bool(await redis.hexists("broker:{0}:grant:g1", "unknown_at")) == (provider == "p")
