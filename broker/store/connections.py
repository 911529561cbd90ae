"""Connections to Redis: plain ones, bounded in time and number, nothing sent twice, and no storm of them.

The client's own retries are off: a script whose reply was lost may have run, and only its caller knows whether to
send it again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Connection, UnixDomainSocketConnection
from redis.asyncio.connection import RedisSSLContext
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from broker.errors import StoreUnavailable
from broker.store.replies import describe

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from broker.redis_url import RedisPlace

CALL_TIMEOUT = 2.0
"""Seconds for one connect or one command."""
PAUSE = 0.2
"""Seconds between two attempts to connect while they fail."""
POOL_SIZE = 64
_AT_ONCE = 4
"""Connections that are made at the same time while all is well."""


class Gate:
    """Through which every new connection goes. After a failure they go one by one, `PAUSE` apart.

    Whoever waited while another's attempt failed shares that failure instead of making one more.
    """

    def __init__(self) -> None:
        self._few = asyncio.Semaphore(_AT_ONCE)
        self._one = asyncio.Lock()
        self._trouble = ""
        self._tried_at = self._failed_at = float("-inf")

    def failed(self, error: BaseException) -> None:
        """A connection could not be made, or broke."""
        self._trouble = describe(error)
        self._failed_at = time.monotonic()

    def well(self) -> None:
        """A command was answered."""
        self._trouble = ""

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """The body makes one connection. Raises `StoreUnavailable` where another's attempt failed meanwhile."""
        came = time.monotonic()
        if not self._trouble:
            async with self._few:
                if not self._trouble:
                    async with self._watched():
                        yield
                    return
        async with self._one:
            if self._trouble and self._failed_at > came:
                raise StoreUnavailable(f"Redis: {self._trouble}")
            await asyncio.sleep(max(self._tried_at, self._failed_at) + PAUSE - time.monotonic())
            async with self._watched():
                yield

    @asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        self._tried_at = time.monotonic()
        try:
            yield
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            self.failed(error)
            raise


class Tls(Connection):
    """A TLS connection whose certificate may have to name another host than the one connected to."""

    def __init__(self, *, context: ssl.SSLContext, server_name: str | None, **options: Any) -> None:
        self._context = context
        self._server_name = server_name
        super().__init__(**options)

    def _connection_arguments(self) -> dict[str, Any]:
        named = {"server_hostname": self._server_name} if self._server_name else {}
        return {"host": self.host, "port": self.port, "ssl": self._context, **named}


class Pool(BlockingConnectionPool):
    """A bounded pool whose new connections go through the gate."""

    def __init__(self, gate: Gate, **options: Any) -> None:
        self._gate = gate
        super().__init__(max_connections=POOL_SIZE, timeout=CALL_TIMEOUT, **options)

    async def ensure_connection(self, connection: Any) -> None:
        """Give out a connection that is ready: one that the server closed meanwhile is made anew."""
        try:
            if connection.is_connected and not await connection.can_read():
                return
        except (exceptions.RedisError, OSError):
            pass
        await connection.disconnect(nowait=True)
        async with self._gate.passing():
            await connection.connect()

    async def retire(self) -> None:
        """Close what is idle; what is in use ends its command first, and is closed then."""
        await self.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]
        await self.disconnect(inuse_connections=False)


def tls_context(place: RedisPlace) -> ssl.SSLContext | None:
    """What TLS connections go by, read from the files it names. Raises `OSError`. Blocks: for a thread."""
    if not place.tls:
        return None
    options: dict[str, Any] = {name: value for name, value in place.tls_options.items() if name != "server_name"}
    check = options.pop("check_hostname", "true").lower() not in {"0", "f", "false", "n", "no"}
    required = options.pop("cert_reqs", "required")
    return RedisSSLContext(cert_reqs=required, check_hostname=check, **options).get()


def connection_options(
    place: RedisPlace, address: tuple[str, int] | None, tls: ssl.SSLContext | None
) -> dict[str, Any]:
    """Options of a connection to *address*, or to the place's socket."""
    options: dict[str, Any] = {
        "socket_connect_timeout": CALL_TIMEOUT,
        "socket_timeout": CALL_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "client_name": "token-broker",
        "driver_info": None,  # it would read package metadata from disk, once a connection
        "username": place.username,
        "password": place.password,
        "db": place.db,
    }
    if address is None:
        return {**options, "connection_class": UnixDomainSocketConnection, "path": place.path}
    options |= {"host": address[0], "port": address[1], "socket_keepalive": True}
    if tls is None:
        return {**options, "connection_class": Connection}
    named = place.tls_options.get("server_name")
    return {**options, "connection_class": Tls, "context": tls, "server_name": named}
