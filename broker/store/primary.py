"""The one Redis primary: a bounded pool of plain connections, every call bounded in time, nothing sent twice.

The client's own retries are off: a script whose reply was lost may have run, and only its caller knows whether
to send it again.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from broker.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from redis.asyncio.client import PubSub

    from broker.store.scripts import Script

Argument = str | bytes | int | float

CALL_TIMEOUT = 2.0
"""Seconds for one connect or one command."""
_POOL_SIZE = 64


class Primary:
    """Commands and scripts on the primary found by a URL (`redis://`, `rediss://`, `unix://`).

    Whatever goes wrong below is raised as `StoreUnavailable`: the store did not answer, or did not want to.
    """

    def __init__(self, url: str, *, password: str | None = None) -> None:
        options: dict[str, Any] = {} if url.startswith("unix:") else {"socket_keepalive": True}
        if password is not None:
            options["password"] = password
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_POOL_SIZE,
            timeout=CALL_TIMEOUT,
            socket_connect_timeout=CALL_TIMEOUT,
            socket_timeout=CALL_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            client_name="token-broker",
            driver_info=None,  # it would read package metadata from disk, once a connection
            **options,
        )
        self._redis: Any = Redis(connection_pool=self._pool)
        # Replies as Redis sent them: the client would read SET … GET as a bool, for one.
        self._redis.response_callbacks.clear()

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()
        await self._pool.disconnect()

    async def call(self, *command: Argument) -> Any:
        """Send one command; its reply as Redis sent it (bytes)."""
        with _translated():
            return await self._redis.execute_command(*command)

    async def pipeline(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send commands in one trip on one connection, without a transaction."""
        if not commands:
            return []
        with _translated():
            async with self._redis.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                replies: list[Any] = await pipe.execute()
                return replies

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run a script by its hash; sends its text only to a server that does not know it yet."""
        with _translated():
            try:
                return await self._redis.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
            except exceptions.NoScriptError:
                return await self._redis.execute_command("EVAL", script.text, len(keys), *keys, *args)

    async def run_durably(
        self, script: Script, keys: Sequence[str], args: Sequence[Argument], *, replicas: int
    ) -> tuple[Any, bool]:
        """Run a script and WAITAOF on the same connection, in one trip.

        Gives the reply, and whether the write is known to be on disk here and on *replicas* replicas. On another
        connection WAITAOF would prove nothing. A server without AOF or WAITAOF gives False.
        """
        with _translated():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
                pipe.execute_command("WAITAOF", 1, replicas, int(CALL_TIMEOUT * 500))
                reply, synced = await pipe.execute(raise_on_error=False)
            if isinstance(reply, exceptions.NoScriptError):
                await self._redis.execute_command("SCRIPT", "LOAD", script.text)
                return await self.run_durably(script, keys, args, replicas=replicas)
            if isinstance(reply, Exception):
                raise reply
        durable = isinstance(synced, (list, tuple)) and synced[0] >= 1 and synced[1] >= replicas
        return reply, durable

    @asynccontextmanager
    async def subscription(self, pattern: str) -> AsyncIterator[PubSub]:
        """A subscription to all channels that match *pattern*, on a connection of its own, confirmed."""
        with _translated():
            async with self._redis.pubsub() as pubsub:
                await pubsub.psubscribe(pattern)
                confirmed = await pubsub.get_message(ignore_subscribe_messages=False, timeout=CALL_TIMEOUT)
                if confirmed is None:
                    raise StoreUnavailable("Redis did not confirm a subscription")
                yield pubsub


class _translated:  # noqa: N801 - reads as a clause: with _translated()
    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, (exceptions.RedisError, OSError, asyncio.TimeoutError)):
            raise StoreUnavailable(f"Redis: {describe(error)}") from None


def describe(error: BaseException) -> str:
    """What a Redis error says, bounded, without the addresses and commands redis-py puts into some of them."""
    if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError):
        return f"refused us: {str(error)[:120]}"
    if isinstance(error, exceptions.ReadOnlyError):
        return "is a read-only replica"
    if isinstance(error, exceptions.BusyLoadingError):
        return "is loading its data"
    if isinstance(error, (exceptions.TimeoutError, asyncio.TimeoutError)):
        return "did not answer in time"
    if isinstance(error, (exceptions.ConnectionError, OSError)):
        return "cannot be reached"
    return str(error).split("script:", 1)[0][:160]
