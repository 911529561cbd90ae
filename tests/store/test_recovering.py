"""A grant with a problem that subscribers heard of is healed by a retry or an import: a recovery, once."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import pytest

from broker.model import Park
from broker.refresh import policy
from broker.secret import Secret
from tests.store.steps import claimed, commit_of, refreshed

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.store import Store

GRANT = "broker:{0}:grant:g1"


@pytest.mark.parametrize("before", ["dead", "parked", "failing", "retried twice"])
@pytest.mark.parametrize("how", ["retry", "import"])
async def test_what_ends_a_problem_is_a_recovery_once(store: Store, redis: Redis, before: str, how: str) -> None:
    """The claim after it says so, until an answer is committed; so it does after a further failure."""
    await refreshed(store, redis, "g1")
    (claim,) = await claimed(store)
    if before == "failing":
        await redis.hset(GRANT, "failures", policy.FAILING_AFTER)
        await redis.hdel(GRANT, "attempt")
        await redis.zrem("broker:{0}:leased:p", "g1")
    else:
        reason = "sealed_with_missing_key" if before == "parked" else "reauthorization_required"
        assert await store.schedule.park(Park(claim, "dead", reason, "", "reauthorization_required"), {}) == "parked"
    if before == "retried twice":
        await store.schedule.retry("g1", "p")
    if how == "retry":
        assert await store.schedule.retry("g1", "p") == "due"
    else:
        brought = await store.registry.import_("g1", "p", Secret("another"), None, due_at=store.clock())
        assert brought.status == "replaced"
    (claim,) = await claimed(store)
    assert claim.recovering
    # An answer that brings nothing usable does not end the problem.
    unusable = commit_of(claim)
    unusable.token, unusable.failures = None, 1  # type: ignore[misc]
    await store.schedule.commit(store.registry.prepare(unusable))
    await redis.zadd("broker:{0}:due:p", {"g1": 1})
    (claim,) = await claimed(store)
    assert claim.recovering
    await store.schedule.commit(store.registry.prepare(commit_of(claim)))
    await redis.zadd("broker:{0}:due:p", {"g1": 1})
    assert [claim.recovering for claim in await claimed(store)] == [False]


async def test_a_retry_of_a_healthy_grant_is_no_recovery(store: Store, redis: Redis) -> None:
    """Subscribers heard nothing of one or two failures."""
    await refreshed(store, redis, "g1")
    await redis.hset(GRANT, "failures", policy.FAILING_AFTER - 1)
    await store.schedule.retry("g1", "p")
    assert [claim.recovering for claim in await claimed(store)] == [False]


async def test_a_note_that_an_older_broker_passed_over_is_void(store: Store, redis: Redis) -> None:
    """An older broker commits and leaves the note: a later refresh is no recovery."""
    await refreshed(store, redis, "g1")
    await redis.hset(GRANT, mapping={"reason": "x", "generation": 7})
    await store.schedule.retry("g1", "p")
    await redis.hset(GRANT, "generation", 8)
    assert [claim.recovering for claim in await claimed(store)] == [False]


def test_scripts_and_decisions_count_alike() -> None:
    """Scripts know from how many failures on subscribers heard of them."""
    prelude = resources.files("broker.store").joinpath("lua", "prelude.lua").read_text("utf-8")
    assert f"local FAILING_AFTER = {policy.FAILING_AFTER}\n" in prelude
