"""The reply to a commit that is repeated, or that meets a store that went back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

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
