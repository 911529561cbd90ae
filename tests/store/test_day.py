"""The providers' last day: counted by replicas, by quarters of an hour, bounded; and the minutes without a token."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from broker.process.heartbeat import Heartbeat
from broker.refresh.history import HistoryRecorder
from broker.store.day import QUARTER_MS, QUARTERS
from tests.store.steps import imported

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.store import Store
    from tests.conftest import StartBroker


async def test_replicas_add_up_and_old_quarters_go(store: Store, redis: Redis) -> None:
    """Counts of several replicas are added, a minute without a token counts once, and a hash keeps one day."""
    quarter = store.clock() // QUARTER_MS - 2
    minute = quarter * 15
    await store.day.add({("p", minute): (2, 1), ("p", minute + 14): (1, 0), ("q", minute + 15): (0, 4)})
    await store.day.add({("p", minute): (3, 0)})
    for at in (minute, minute, minute + 3, minute + 14):  # two replicas see the same
        await store.day.note_unserved(["p"], at)
    days = await store.day.for_providers(["p", "q", "never"], store.clock())
    assert {len(day) for day in days.values()} == {QUARTERS}
    found = days["p"][-3]
    assert (found.at, found.refreshed, found.failed, found.unserved) == (quarter * QUARTER_MS, 6, 1, 3)
    assert (days["q"][-2].refreshed, days["q"][-2].failed) == (0, 4)
    assert not any(each.refreshed or each.failed or each.unserved for each in days["never"])
    for ago in range(3, 500):
        await store.day.add({("p", minute - 15 * ago): (1, 0), ("p", minute + 150 * ago): (1, 0)})
    assert await redis.hlen("broker:{0}:day:p") <= 384 + 2
    assert (await store.day.for_providers(["p"], store.clock()))["p"][-3].refreshed == 6


async def test_nothing_is_noted_in_another_store(store: Store, redis: Redis) -> None:
    """An emptied server gets no day; nothing to note is no call."""
    history = HistoryRecorder(store, Heartbeat("history"), {})
    history.count("p", "refreshed")
    await store.day.note_unserved([], 1)
    await redis.flushall()
    await history.flush()
    assert await redis.keys("*") == []


async def test_a_minute_without_a_token_is_noted_once(store: Store, redis: Redis) -> None:
    """Once a minute a replica notes the providers with a grant that has no valid token, in the settings or not."""
    await imported(store, "waits")
    history = HistoryRecorder(store, Heartbeat("history"), {})
    await history.flush()
    await redis.delete("broker:{0}:day:p")
    minute = store.clock() // 60_000
    await history.flush()
    if store.clock() // 60_000 == minute:
        assert not await redis.exists("broker:{0}:day:p"), "it was noted in this minute already"
    await HistoryRecorder(store, Heartbeat("history"), {}).flush()
    ((*_, before, last),) = (await store.day.for_providers(["p"], store.clock())).values()
    assert before.unserved + last.unserved >= 1


async def test_the_route(start_broker: StartBroker, redis: Redis) -> None:
    """`GET /v1/history` has 96 quarters of each named provider, or of all; too many names are refused."""
    async with start_broker() as broker:
        quarter = int(time.time() * 1000) // QUARTER_MS
        await redis.hset("broker:{0}:day:een", mapping={f"{quarter}r": 5, f"{quarter - 1}u": 0b101})
        body = await broker.get("/v1/history")
        days = {each["provider"]: each for each in body["providers"]}
        assert set(days) == {"acme", "cameramanager", "een"}
        assert sum(days["een"]["refreshed"]) == 5
        assert sum(days["een"]["unserved"]) == 2
        assert len(days["acme"]["failed"]) == QUARTERS
        assert 0 <= (time.time() - body["begins_at"]) - (QUARTERS - 1) * 900 < 2 * 900
        named = await broker.get("/v1/history?provider=een")
        assert [each["provider"] for each in named["providers"]] == ["een"]
        status, body, _ = await broker.ask("GET", "/v1/history?" + "&".join(["provider=p"] * 101))
        assert (status, body["error"]) == (400, "invalid_request")
