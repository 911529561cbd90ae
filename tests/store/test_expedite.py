"""Expedite: what is made due at once, what is left alone, and what a budget counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.model import Park, Postpone
from tests.store.steps import claimed, commit_of, imported

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.store import Store


async def test_expedite_respects_what_waits(store: Store) -> None:
    """Expedite moves only what waits in due, is not backing off, and was not just refreshed."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    grant = await store.grants.get("g1")
    assert grant is not None
    assert (await store.schedule.expedite(grant, interval_ms=0)).status == "leased"
    await store.schedule.commit(store.registry.prepare(commit_of(claim)))
    fresh = await store.schedule.expedite(grant, interval_ms=60_000)
    assert (fresh.status, 0 < fresh.number <= 60_000) == ("fresh", True)
    changed = await store.schedule.expedite(grant, interval_ms=0, generation=grant.generation)
    assert (changed.status, changed.number) == ("changed", grant.generation + 1)
    assert (await store.schedule.expedite(grant, interval_ms=0)).status == "expedited"
    assert (await store.schedule.expedite(grant, interval_ms=60_000)).status == "expedited", "it is due already"
    (claim,) = await claimed(store)
    await store.schedule.postpone(Postpone(claim, "busy", "x", "", store.clock() + 5000, 1), None)
    assert (await store.schedule.expedite(grant, interval_ms=0)).status == "backing_off"
    assert await store.schedule.retry("g1", "p") == "due"
    (claim,) = await claimed(store)
    await store.schedule.park(Park(claim, "dead", "gone", "", "refresh_failing"), {})
    assert (await store.schedule.expedite(grant, interval_ms=0)).status == "parked"
    await store.registry.forget("g1", {})
    assert (await store.schedule.expedite(grant, interval_ms=0)).status == "gone"


async def test_expedite_counts_what_it_moves(store: Store) -> None:
    """A budget is for what was made due, not for who asked; without one nothing is counted and nothing refused."""
    await imported(store, "g1")

    async def expedite(budget: int | None) -> str:
        grant = await store.grants.get("g1")
        assert grant is not None
        return (await store.schedule.expedite(grant, interval_ms=0, budget=budget)).status

    async def refresh() -> None:
        (claim,) = await claimed(store)
        await store.schedule.commit(store.registry.prepare(commit_of(claim)))

    assert [await expedite(1) for _ in range(3)] == ["expedited"] * 3, "due since its import"
    await refresh()
    assert [await expedite(1) for _ in range(3)] == ["expedited"] * 3
    await refresh()
    assert [await expedite(1) for _ in range(3)] == ["spent"] * 3
    assert await expedite(2) == "expedited"
    await refresh()
    assert await expedite(None) == "expedited"


async def test_an_answer_of_the_future_is_a_fresh_one(store: Store, redis: Redis) -> None:
    """After the server's clock was set back a little, a grant is not refreshed again before its interval is over."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    await store.schedule.commit(store.registry.prepare(commit_of(claim)))
    grant = await store.grants.get("g1")
    assert grant is not None
    for ahead, status in ((30_000, "fresh"), (3_600_000, "expedited")):
        await redis.hset("broker:{0}:grant:g1", "answered_at", store.clock() + ahead)
        expedited = await store.schedule.expedite(grant, interval_ms=60_000)
        assert expedited.status == status
        assert expedited.number <= 60_000
