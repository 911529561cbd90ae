"""What is published, as a subscription hears it: in order, together where it came together, and to the last byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from broker.errors import StoreUnavailable
from broker.store.redis.primary import Primary
from broker.store.redis.subscription import Subscription
from tests.proxy import RedisProxy
from tests.redis_server import RedisServer
from tests.waiting import until

ALL = [f"{number:03}".encode() * 50 for number in range(200)]


@asynccontextmanager
async def subscribed(url: str) -> AsyncIterator[Subscription]:
    """Yield a subscription to everything below `x:`."""
    primary = Primary(url)
    try:
        async with primary.subscription("x:*") as subscription:
            yield subscription
    finally:
        await primary.close()


async def heard(subscription: Subscription, many: int) -> list[list[bytes]]:
    """So many messages, as they were heard."""
    received: list[list[bytes]] = []
    async with asyncio.timeout(20):
        while sum(map(len, received)) < many:
            received.append([data for _, data in await subscription.receive()])
    return received


async def publish(redis: Redis, messages: list[bytes]) -> None:
    """All of them in one trip."""
    async with redis.pipeline(transaction=False) as pipe:
        for message in messages:
            _ = pipe.publish("x:1", message)
        await pipe.execute()


async def test_in_order_and_together(shared_redis: RedisServer, redis: Redis) -> None:
    """What was published together is heard in far fewer turns, each bounded, and none is left out."""
    async with subscribed(shared_redis.url) as subscription:
        await publish(redis, ALL)
        received = await heard(subscription, len(ALL))
    assert [data for some in received for data in some] == ALL
    assert len(received) < len(ALL) / 4
    assert max(map(len, received)) <= 64


class Slow(RedisProxy):
    """Passes on what is published in pieces, each later than a turn of listening lasts."""

    piece = 700
    slow = False

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: Callable[[bytes], bool]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                while self.slow and data:
                    writer.write(data[: self.piece])
                    data = data[self.piece :]
                    await asyncio.sleep(0.15)
                writer.write(data)
        writer.close()


async def test_a_message_in_pieces(shared_redis: RedisServer, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that ends in the middle of a message, with others before it or not, loses nothing of either."""
    monkeypatch.setattr("broker.store.redis.subscription._TICK", 0.1)
    async with Slow(shared_redis.port) as proxy, subscribed(proxy.url) as subscription:
        proxy.slow = True
        await publish(redis, ALL[:20])
        received = await heard(subscription, 20)
    assert [data for some in received for data in some] == ALL[:20]
    assert [] in received, "no turn ended in the middle of a message"


@pytest.mark.parametrize("many", [0, 3, 100])
async def test_a_link_that_ends(shared_redis: RedisServer, redis: Redis, many: int) -> None:
    """It is said at once, not after a silence, and after all that had come by then."""
    async with RedisProxy(shared_redis.port) as proxy, subscribed(proxy.url) as subscription:
        await publish(redis, ALL[:many])
        await until(lambda: len(subscription._connection._reader._buffer) >= many * len(ALL[0]))
        proxy.cut()
        await until(lambda: subscription._connection._reader._eof)
        received = await heard(subscription, many)
        with pytest.raises(StoreUnavailable):
            await subscription.receive()
    assert [data for some in received for data in some] == ALL[:many]


async def test_a_socket_that_times_out(shared_redis: RedisServer) -> None:
    """The system gives up a connection whose other end is gone (keepalive): that is an end, not a silence."""
    async with subscribed(shared_redis.url) as subscription:
        stream = subscription._connection._reader
        stream.set_exception(TimeoutError(110, "Connection timed out"))
        with pytest.raises(StoreUnavailable):
            await subscription.receive()
