"""How much a lane claims at once: in batches, so that not all slots stand empty together, and less beside callers."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from broker.read.activity import RECENT, ReadActivity
from broker.refresh.recorder import Recorder
from broker.refresh.scheduler import is_urgent
from tests.broker.steps import imported
from tests.conftest import StartBroker
from tests.refresh.claims import claim
from tests.waiting import meanwhile, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker

CONCURRENCY = 8
NAMES = [f"g{number}" for number in range(40)]


async def most_at_once(redis: Redis, *, expired: bool = False) -> int:
    """Make all grants due and return the most that one claim took; *expired*: their tokens have expired."""
    before = [await redis.hget(f"broker:{{0}}:grant:{name}", "generation") for name in NAMES]
    if expired:
        for name in NAMES:
            await redis.hset(f"broker:{{0}}:grant:{name}", "expires_at", 1)
    await redis.zadd("broker:{0}:due:acme", dict.fromkeys(NAMES, time.time() * 1000), xx=True)

    async def all_refreshed() -> bool:
        now = [await redis.hget(f"broker:{{0}}:grant:{name}", "generation") for name in NAMES]
        return all(new != old for new, old in zip(now, before, strict=True))

    await until(all_refreshed, 20)
    # An attempt is called by its claim and its number in it.
    committed: list[Any] = [await redis.hget(f"broker:{{0}}:grant:{name}", "committed") for name in NAMES]
    numbers = [int(attempt.rpartition(b"-")[2]) for attempt in committed if attempt]
    assert len(numbers) == len(NAMES)
    return max(numbers)


@asynccontextmanager
async def asking(broker: RunningBroker) -> AsyncIterator[None]:
    """Yield a caller reads a token all the time."""
    await broker.token("g0")
    async with meanwhile(lambda: broker.token("g0"), RECENT / 20):
        yield


@pytest.mark.parametrize(("quick", "batch"), [(3600.0, CONCURRENCY // 2), (0.0, CONCURRENCY // 3)])
async def test_a_claim_fills_a_part_of_a_lane(
    start_broker: StartBroker,
    sandbox: Sandbox,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    quick: float,
    batch: int,
) -> None:
    """However many are due, one claim takes no more than its batch, and all are refreshed all the same."""
    monkeypatch.setattr("broker.refresh.concurrency.QUICK", quick)
    monkeypatch.setattr("broker.read.activity.RECENT", 0.0)  # the import reads each token
    async with start_broker(refresh={"concurrency": CONCURRENCY}) as broker:
        await imported(broker, sandbox, *NAMES)
        assert await most_at_once(redis) == batch


async def test_refreshing_ahead_of_time_gives_way_to_callers(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis
) -> None:
    """While callers read, grants whose tokens live are claimed one by one."""
    async with start_broker(refresh={"concurrency": CONCURRENCY}) as broker:
        await imported(broker, sandbox, *NAMES)
        async with asking(broker):
            assert await most_at_once(redis) == 1


async def test_expired_grants_do_not_give_way(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """Grants without a valid token are claimed in whole batches, whoever reads meanwhile: callers wait for them."""
    async with start_broker(refresh={"concurrency": CONCURRENCY}) as broker:
        await imported(broker, sandbox, *NAMES)
        async with asking(broker):
            assert await most_at_once(redis, expired=True) in {CONCURRENCY // 2, CONCURRENCY // 3}


@pytest.mark.parametrize(
    ("due", "expires", "wanted"),
    [
        (1000, 2000, False),
        (501, 1500, False),
        (400, 1500, True),
        (1000, 1000, True),
        (900, 999, True),
        (1000, None, True),
        (1, 1_000_000, False),
        (990, 1011, False),
        (980, 1011, True),
    ],
)
def test_what_is_late_is_urgent(due: int, expires: int | None, wanted: bool) -> None:
    """Half of what was left when it fell due is gone (claimed at 1000), or nothing valid is left."""
    assert is_urgent(replace(claim(), due_at=due, claimed_at=1000, expires_at=expires)) == wanted


async def test_no_more_is_requested_than_can_be_recorded(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While answers wait for the store, a lane sends a bounded number of requests; then it refreshes all others."""
    monkeypatch.setattr("broker.refresh.scheduler.MOST_COMMITTING", 3)
    commit, taken, gone_on = Recorder.commit, asyncio.Event(), asyncio.Event()
    gone_on.set()

    async def held_up(self: Recorder, *args: Any) -> Any:
        taken.set()
        await gone_on.wait()
        return await commit(self, *args)

    monkeypatch.setattr(Recorder, "commit", held_up)
    async with start_broker(refresh={"concurrency": CONCURRENCY}) as broker:
        await imported(broker, sandbox, *NAMES)
        gone_on.clear()
        taken.clear()
        before = len(sandbox.rotating.token_requests)
        everything = asyncio.create_task(most_at_once(redis))
        await taken.wait()
        for _ in range(10):
            await asyncio.sleep(0.05)
            assert len(sandbox.rotating.token_requests) - before <= 3 + CONCURRENCY
        gone_on.set()
        await everything


async def test_a_caller_counts_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read counts as recent for `RECENT` seconds, and no longer."""
    now = 1000.0
    monkeypatch.setattr("broker.read.activity.time.monotonic", lambda: now)
    reads = ReadActivity()
    assert not reads.recent
    reads.note()
    now += RECENT * 0.99
    assert reads.recent
    now += RECENT * 0.02
    assert not reads.recent


async def test_a_loop_that_is_always_late_goes_on_all_the_same() -> None:
    """However late the loop is, the wait ends."""
    reads, over = ReadActivity(), False

    def busy() -> None:
        ends = asyncio.get_running_loop().time() + 0.004
        while asyncio.get_running_loop().time() < ends:
            pass
        if not over:
            asyncio.get_running_loop().call_soon(busy)

    busy()
    async with asyncio.timeout(5):
        await reads.yield_to_reads()
    over = True
