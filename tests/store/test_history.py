"""The providers' history: counted in memory, added up over replicas in Redis, bounded to an hour."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.process.heartbeat import Heartbeat
from broker.refresh.history import HistoryRecorder
from broker.store.history import MINUTE_MS, MINUTES
from tests.steps import authority_of, make_due, next_generation
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from broker.store import Store
    from tests.conftest import StartBroker


async def minute_of(store: Store) -> int:
    """Return the minute that it is, and will be for some seconds."""
    left = MINUTE_MS - store.clock() % MINUTE_MS
    if left < 5000:
        await asyncio.sleep(left / 1000 + 0.1)
    return store.clock() // MINUTE_MS


async def test_replicas_add_up_and_old_minutes_go(store: Store, redis: Redis) -> None:
    """The counts of several replicas for one minute are added; a hash that has grown keeps only the last hour."""
    minute = await minute_of(store)
    await store.history.add({("p", minute): (2, 1), ("q", minute): (0, 4)})
    await store.history.add({("p", minute): (3, 0), ("p", minute - 1): (0, 1)})
    hours = await store.history.for_providers(["p", "q", "never"], minute * MINUTE_MS)
    assert [(m.at // MINUTE_MS - minute, m.refreshed, m.failed) for m in hours["p"][-2:]] == [(-1, 0, 1), (0, 5, 1)]
    assert (hours["q"][-1].refreshed, hours["q"][-1].failed) == (0, 4)
    assert {len(hour) for hour in hours.values()} == {MINUTES}
    assert not any(m.refreshed or m.failed for m in hours["never"])
    for ago in range(2, 300):
        await store.history.add({("p", minute - ago): (1, 1), ("p", minute + 10 * ago): (1, 0)})
    assert await redis.hlen("broker:{0}:history:p") < 200
    (hour,) = (await store.history.for_providers(["p"], minute * MINUTE_MS)).values()
    assert [m.refreshed for m in hour] == [1] * (MINUTES - 2) + [0, 5]


async def test_nothing_is_added_to_another_store(store: Store, redis: Redis) -> None:
    """An emptied server gets no history, and the counts that it refused are added once the data is back."""
    await minute_of(store)
    history = HistoryRecorder(store, Heartbeat("history"), {})
    history.count("p", "refreshed")
    history.count("p", "busy")
    held = await redis.dump("broker:{0}:meta") or b""
    await redis.flushall()
    await history.flush()
    assert await redis.keys("*") == []
    await redis.restore("broker:{0}:meta", 0, held)
    history.count("p", "unchanged")
    await history.flush()
    await history.flush()
    ((*_, last),) = (await store.history.for_providers(["p"], store.clock())).values()
    assert (last.refreshed, last.failed) == (2, 1)


async def test_providers_show_it_over_all_replicas(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """`GET /v1/providers` has sixty minutes of each provider; what other brokers did, and did last, is in it."""
    async with start_broker() as here:
        async with start_broker() as there:
            await there.import_("g", "acme", authority_of(sandbox, "acme").issue().refresh_token or "")
            generation = (await there.token("g"))["generation"]
            await make_due(redis, "acme", "g")
            await next_generation(there, "g", generation)

        async def told_by_both() -> dict[str, list[dict[str, int]]] | None:
            found = {p["provider"]: p["history"] for p in (await here.get("/v1/providers"))["providers"]}
            return found if sum(minute["refreshed"] for minute in found["acme"][-2:]) == 2 else None

        found = await until(
            told_by_both
        )  # either may have made the second request, and this one adds it a little later
        assert {len(history) for history in found.values()} == {60}
        assert [later["at"] - at["at"] for at, later in zip(found["acme"], found["acme"][1:], strict=False)] == [
            60
        ] * 59
        assert not any(minute["failed"] for history in found.values() for minute in history)


async def test_it_is_added_while_the_broker_runs(store: Store) -> None:
    """A running recorder adds what it counted without being stopped, and ends when it is stopped."""
    history, ending = HistoryRecorder(store, Heartbeat("history"), {}), asyncio.Event()
    history.count("p", "rejected")
    running = asyncio.create_task(history.run(ending))

    async def heard() -> bool:
        ((*_, before, last),) = (await store.history.for_providers(["p"], store.clock())).values()
        return before.failed + last.failed == 1

    await until(heard, timeout=8)
    ending.set()
    await asyncio.wait_for(running, 2)
