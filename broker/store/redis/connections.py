"""Connections to Redis: plain ones, bounded in time and number, nothing sent twice, and no storm of them.

The client's own retries are off: a script whose reply was lost may have run, and only its caller knows whether to
send it again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import hiredis
from redis import exceptions
from redis.asyncio import Connection, UnixDomainSocketConnection
from redis.asyncio.connection import RedisSSLContext
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from broker.errors import StoreUnavailable
from broker.store.redis.replies import POOL_EMPTY, describe

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Sequence

    from broker.settings.redis_url import RedisPlace

Argument = str | bytes | int | float
"""What a command is made of."""

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


class Pool:
    """Connections to one server, at most `POOL_SIZE`, made through the gate; whoever finds none free waits for one."""

    def __init__(self, gate: Gate, *, connection_class: Callable[..., Any], **options: Any) -> None:
        self._gate = gate
        self._connection_class = connection_class
        self._options = options
        self._free = asyncio.Semaphore(POOL_SIZE)
        self._idle: list[Any] = []
        self._retired = False
        self.peer: str | None = None
        """The IP address that was connected to last."""

    def make_connection(self) -> Any:
        """One more, not connected yet, outside the pool."""
        return self._connection_class(**self._options)

    async def trip(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send *commands* together on one connection, within `CALL_TIMEOUT`; its errors stand among the replies.

        Raises what went wrong with the connection, which is then closed: a reply may be on its way still.
        """
        packed = b"".join([hiredis.pack_command(tuple(command)) for command in commands])  # type: ignore[arg-type]
        connection = await self._taken()
        whole = False
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                await connection.send_packed_command(packed, check_health=False)
                replies = [await _reply(connection) for _ in commands]
            whole = True
        finally:
            self._free.release()
            if whole and not self._retired:
                self._idle.append(connection)
            else:
                await connection.disconnect(nowait=True)
        return replies

    async def _taken(self) -> Any:
        try:
            async with asyncio.timeout(CALL_TIMEOUT if self._free.locked() else None):
                await self._free.acquire()
        except TimeoutError:
            raise exceptions.ConnectionError(POOL_EMPTY) from None
        try:
            while self._idle:
                connection = self._idle.pop()
                if await _sound(connection):
                    return connection
                await connection.disconnect(nowait=True)
            return await self._connected()
        except BaseException:
            self._free.release()
            raise

    async def _connected(self) -> Any:
        connection = self.make_connection()
        try:
            async with self._gate.passing():
                await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        connection.socket_timeout = None  # from here on a trip is bounded as a whole, not each read of it
        self.peer = connection.getpeername()
        return connection

    async def retire(self) -> None:
        """Close what is idle; what is in use ends its trip first, and is closed then."""
        self._retired = True
        while self._idle:
            await self._idle.pop().disconnect()


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except exceptions.ResponseError as error:
        return error


async def _sound(connection: Any) -> bool:
    """Whether it can be used: the server may have closed it meanwhile."""
    try:
        return not await connection.can_read()
    except (exceptions.RedisError, OSError):
        return False


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
