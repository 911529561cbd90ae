"""A lane fills its slots in portions, so that not all of them stand empty at once."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from broker.refresh.scheduler import PORTIONS
from broker.sandbox import Sandbox
from tests.conftest import StartBroker
from tests.life.test_explained import imported
from tests.waiting import until

CONCURRENCY = 8


async def test_a_claim_fills_a_part_of_a_lane(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """However many are due, one claim takes no more than its portion, and all are refreshed all the same."""
    names = [f"g{number}" for number in range(40)]
    async with start_broker(refresh={"concurrency": CONCURRENCY}) as broker:
        await imported(broker, sandbox, *names)
        before = [await redis.hget(f"broker:{{0}}:grant:{name}", "generation") for name in names]
        await redis.zadd("broker:{0}:due:acme", dict.fromkeys(names, 1.0), xx=True)

        async def all_refreshed() -> bool:
            now = [await redis.hget(f"broker:{{0}}:grant:{name}", "generation") for name in names]
            return all(new != old for new, old in zip(now, before, strict=True))

        await until(all_refreshed, 20)
        # An attempt is called by its claim and its number in it.
        committed: list[Any] = [await redis.hget(f"broker:{{0}}:grant:{name}", "committed") for name in names]
        numbers = [int(attempt.rpartition(b"-")[2]) for attempt in committed if attempt]
        assert max(numbers) == CONCURRENCY // PORTIONS
        assert len(numbers) == len(names)
