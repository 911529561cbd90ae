"""Lists while grants change their state: none is missing, and none is there twice, in what one page holds."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from broker.store import Store
from broker.store.listing import Listing

IDS = [f"g{number}" for number in range(5)]


@pytest.mark.parametrize("providers", [["p"], ["p", *(f"q{number}" for number in range(30))]], ids=["one", "many"])
async def test_grants_that_move(store: Store, redis: Redis, providers: list[str]) -> None:
    """Grants that are leased, and due again, all the time are in every list."""
    listing = Listing(store.primary, store.keys)
    due, leased, over = store.keys.ids("due", "p"), store.keys.ids("leased", "p"), asyncio.Event()
    await redis.zadd(due, dict.fromkeys(IDS, 1.0))

    async def move() -> None:
        source, target = due, leased
        while not over.is_set():
            await redis.rename(source, target)
            source, target = target, source

    moving = asyncio.create_task(move())
    try:
        for _ in range(300):
            rows, following = await listing.rows(providers, ("parked", "leased", "due"), None, 100, bool)
            assert (sorted(name for _, name, _, _ in rows), following) == (IDS, None)
    finally:
        over.set()
        await moving
