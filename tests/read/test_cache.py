"""The cache holds only the newest generation of a token, in whatever order tokens arrive."""

from __future__ import annotations

import asyncio

from broker.model import Token
from broker.read import Cache
from broker.secret import Secret


def token(generation: int, grant: str = "g1") -> Token:
    """Return a token of a generation."""
    return Token(grant, "p", generation, Secret(f"a{generation}"), "Bearer", None, 0, 10_000, 5_000, 10_000, {})


def held(cache: Cache) -> int | None:
    """Return the generation that callers would get."""
    found = cache.get("g1")
    return None if found is None else found.generation


def test_the_newest_generation_stays() -> None:
    """A token that arrives late (a slow read of the store, a late message) does not replace a newer one."""
    cache = Cache(10)
    assert cache.put(token(5))
    assert not cache.put(token(4))
    assert held(cache) == 5
    assert cache.put(token(5))
    assert cache.put(token(6))
    assert held(cache) == 6


def test_a_token_follows_the_generation_it_was_made_from() -> None:
    """A response to the refresh of a generation that a login replaced is not cached, whatever its own generation."""
    cache = Cache(10)
    cache.put(token(7))
    assert not cache.succeed(token(9), 5)
    assert held(cache) == 7
    assert cache.succeed(token(9), 7)
    assert held(cache) == 9


def test_only_the_token_that_was_not_accepted_is_retracted() -> None:
    """Retracting a token leaves another token of its grant cached."""
    cache = Cache(10)
    cache.put(token(7))
    cache.retract(token(6))
    assert held(cache) == 7
    cache.retract(token(7))
    assert held(cache) is None


async def test_a_late_generation_wakes_nobody() -> None:
    """A caller that waits for a newer token is woken only by a newer one."""
    cache = Cache(10)
    cache.put(token(5))
    waiting = asyncio.create_task(cache.changed("g1", 5))
    await asyncio.sleep(0)
    cache.put(token(4))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    cache.put(token(6))
    assert await waiting
