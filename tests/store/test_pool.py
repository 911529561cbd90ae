"""The pool of connections to Redis: what is sent together, and a connection that nobody may use again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis import exceptions
from redis.asyncio import Redis

from broker.settings.redis_url import parse_redis_url
from broker.store.redis import connections
from broker.store.redis.connections import ConnectionThrottle, Pool, connection_options
from tests.redis_server import RedisServer

WAIT = ("BLPOP", "nothing-is-pushed-here", 5)


@pytest.fixture
async def pool(shared_redis: RedisServer) -> AsyncIterator[Pool]:
    """Yield a pool of connections to the run's server."""
    place = parse_redis_url(shared_redis.url)
    pool = Pool(ConnectionThrottle(), **connection_options(place, place.hosts[0] if place.hosts else None, None))
    yield pool
    await pool.retire()


async def clients(redis: Redis) -> list[dict[str, Any]]:
    """Return the broker's connections, as the server has them."""
    listed: list[dict[str, Any]] = await redis.client_list()
    return [client for client in listed if client["name"] == "token-broker"]


async def test_an_error_stands_among_the_replies(pool: Pool, redis: Redis) -> None:
    """One command that the server refuses hides none of the others' replies, and its connection goes on."""
    replies = await pool.trip([("SET", "a", "é"), ("INCR", "a"), ("GET", "a")])
    assert isinstance(replies[1], exceptions.ResponseError)
    assert (replies[0], replies[2]) == (b"OK", "é".encode())
    assert await pool.trip([("GET", "a")]) == ["é".encode()]
    assert len(await clients(redis)) == 1


@pytest.mark.parametrize("argument", ["text", b"\x00\r\n\xff", 12, -1, 1.5, 10**18, ""])
async def test_arguments_arrive_as_they_are(pool: Pool, redis: Redis, argument: str | bytes | float) -> None:
    """Text as UTF-8, bytes as they are, numbers as Redis reads them."""
    await pool.trip([("SET", "b", argument)])
    assert await redis.get("b") == (argument if isinstance(argument, bytes) else str(argument).encode())


async def test_a_trip_that_was_left_takes_its_connection_along(pool: Pool, redis: Redis) -> None:
    """The reply to a trip that was cancelled is never read as the reply to another."""
    left = asyncio.create_task(pool.trip([WAIT]))
    await asyncio.sleep(0.1)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    await redis.rpush("nothing-is-pushed-here", "late")
    assert await pool.trip([("ECHO", "mine")]) == [b"mine"]


async def test_a_trip_ends_in_time(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer costs the time for one call, however much was sent."""
    monkeypatch.setattr(connections, "CALL_TIMEOUT", 0.3)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await pool.trip([("PING",), WAIT, WAIT])
    assert 0.25 < time.monotonic() - began < 2
    assert await pool.trip([("ECHO", "mine")]) == [b"mine"]


async def test_a_closed_connection_is_made_anew(pool: Pool, redis: Redis) -> None:
    """What the server closed while it was idle is noticed before anything is sent on it."""
    await pool.trip([("PING",)])
    [mine] = await clients(redis)
    await redis.client_kill_filter(_id=mine["id"])
    await asyncio.sleep(0.1)
    assert await pool.trip([("ECHO", "mine")]) == [b"mine"]


async def test_whoever_finds_none_free_waits(pool: Pool, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are never more connections than the pool may have, and waiting for one ends in time, too."""
    pool._free = asyncio.Semaphore(2)
    assert await asyncio.gather(*(pool.trip([("ECHO", n)]) for n in range(20))) == [[b"%d" % n] for n in range(20)]
    assert len(await clients(redis)) <= 2
    blocked = [asyncio.create_task(pool.trip([("BLPOP", "nothing", 1)])) for _ in range(2)]
    await asyncio.sleep(0.1)
    monkeypatch.setattr(connections, "CALL_TIMEOUT", 0.2)
    with pytest.raises(exceptions.ConnectionError, match="No connection available"):
        await pool.trip([("PING",)])
    assert await asyncio.gather(*blocked) == [[None], [None]]
    assert await pool.trip([("PING",)]) == [b"PONG"]


async def test_a_retired_pool_ends_what_is_under_way(pool: Pool, redis: Redis) -> None:
    """Idle connections are closed at once, one that is in use when its trip has ended."""
    await pool.trip([("PING",)])
    under_way = asyncio.create_task(pool.trip([("BLPOP", "some", 5)]))
    await asyncio.sleep(0.1)
    await pool.retire()
    await redis.rpush("some", "thing")
    assert await under_way == [[b"some", b"thing"]]
    await asyncio.sleep(0.1)
    assert await clients(redis) == []
