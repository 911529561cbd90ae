"""Connections to Redis: plain ones, bounded in time and number, nothing sent twice, and no connection storms.

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
from redis.asyncio.connection import AbstractConnection, RedisSSLContext
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from broker.errors import StoreUnavailable
from broker.store.redis.cures import find_cure
from broker.store.redis.replies import POOL_EMPTY, describe

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Sequence

    from broker.settings.redis_url import RedisLocation
    from broker.store.scripts import Script

Argument = str | bytes | int | float
"""One part of a command."""

CALL_TIMEOUT = 2.0
"""Seconds for one connect or one command."""
PAUSE = 0.2
"""Seconds between two attempts to connect while they fail."""
POOL_SIZE = 64
_CLOSED = "Connection reset by the server"
_AT_ONCE = 4
"""Connections that are opened at the same time while none fails."""


class ConnectionThrottle:
    """Throttle new connections: one at a time after a failure, `PAUSE` apart.

    A caller that waited while another's attempt failed gets that failure instead of making one more attempt.
    """

    def __init__(self) -> None:
        self._parallel = asyncio.Semaphore(_AT_ONCE)
        self._serial = asyncio.Lock()
        self._trouble = ""
        self._cure: str | None = None
        self._tried_at = self._failed_at = float("-inf")

    def note_failure(self, error: BaseException) -> None:
        """Note that a connection could not be opened, or broke."""
        self._trouble, self._cure = describe(error), find_cure(error)
        self._failed_at = time.monotonic()

    def note_success(self) -> None:
        """Note that Redis replied to a command."""
        self._trouble = ""

    @asynccontextmanager
    async def connecting(self) -> AsyncIterator[None]:
        """Wait until the body may open one connection.

        Raises:
            StoreUnavailable: another caller's attempt failed meanwhile.
        """
        arrived = time.monotonic()
        if not self._trouble:
            async with self._parallel:
                if not self._trouble:
                    async with self._attempt():
                        yield
                    return
        async with self._serial:
            if self._trouble and self._failed_at > arrived:
                raise StoreUnavailable(f"Redis: {self._trouble}", cure=self._cure)
            await asyncio.sleep(max(self._tried_at, self._failed_at) + PAUSE - time.monotonic())
            async with self._attempt():
                yield

    @asynccontextmanager
    async def _attempt(self) -> AsyncIterator[None]:
        self._tried_at = time.monotonic()
        try:
            yield
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            self.note_failure(error)
            raise


class _Closable(AbstractConnection):
    """A connection that was reset counts as closed.

    After a reset redis-py finds no end of the stream, so that `can_read` is False, and uvloop raises RuntimeError for
    a write.
    """

    async def can_read(self) -> bool:
        """Return whether bytes have arrived or the connection is closed."""
        return (self._writer is not None and self._writer.is_closing()) or await super().can_read()

    async def send_packed_command(self, *command: Any, **options: Any) -> None:
        """Send a packed command.

        Raises:
            ConnectionError: the connection is closed; nothing was sent.
        """
        try:
            await super().send_packed_command(*command, **options)
        except RuntimeError:
            raise exceptions.ConnectionError(_CLOSED) from None


class _Tcp(_Closable, Connection):
    """A connection to a host."""


class _Unix(_Closable, UnixDomainSocketConnection):
    """A connection to a socket of this machine."""


class Tls(_Tcp):
    """A TLS connection whose certificate may have to name another host than the one it connects to."""

    def __init__(self, *, context: ssl.SSLContext, server_name: str | None, **options: Any) -> None:
        self._context = context
        self._server_name = server_name
        super().__init__(**options)

    def _connection_arguments(self) -> dict[str, Any]:
        named = {"server_hostname": self._server_name} if self._server_name else {}
        return {"host": self.host, "port": self.port, "ssl": self._context, **named}


class Pool:
    """Connections to one server, at most `POOL_SIZE`, opened through the throttle; callers wait for a free one."""

    def __init__(self, throttle: ConnectionThrottle, *, connection_class: Callable[..., Any], **options: Any) -> None:
        self._throttle = throttle
        self._connection_class = connection_class
        self._options = options
        self._free = asyncio.Semaphore(POOL_SIZE)
        self._idle: list[Any] = []
        self._retired = False
        self.peer: str | None = None
        """The IP address of the newest connection."""

    def make_connection(self) -> Any:
        """Return one more connection, not open yet, outside the pool."""
        return self._connection_class(**self._options)

    async def trip(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send *commands* together on one connection, within `CALL_TIMEOUT`.

        Returns:
            The replies; an error of Redis stands among them.

        Raises:
            Exception: the connection failed. It is closed then: a reply may still be on its way.
        """
        packed = b"".join([hiredis.pack_command(tuple(command)) for command in commands])  # type: ignore[arg-type]
        connection = await self._acquire()
        complete = False
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                await connection.send_packed_command(packed, check_health=False)
                replies = [await _reply(connection) for _ in commands]
            complete = True
        finally:
            self._free.release()
            if complete and not self._retired:
                self._idle.append(connection)
            else:
                await connection.disconnect(nowait=True)
        return replies

    async def evaluate(
        self, script: Script, params: Sequence[tuple[Argument, ...]], *further: tuple[Argument, ...]
    ) -> list[Any]:
        """Run a script by its hash for each of *params*, then *further*; send its text to a server that lacks it."""
        replies = await self.trip([*(("EVALSHA", script.sha, *each) for each in params), *further])
        if any(isinstance(reply, exceptions.NoScriptError) for reply in replies):
            replies = await self.trip([*(("EVAL", script.text, *each) for each in params), *further])
        return replies

    async def _acquire(self) -> Any:
        try:
            async with asyncio.timeout(CALL_TIMEOUT if self._free.locked() else None):
                await self._free.acquire()
        except TimeoutError:
            raise exceptions.ConnectionError(POOL_EMPTY) from None
        try:
            while self._idle:
                connection = self._idle.pop()
                if await _is_usable(connection):
                    return connection
                await connection.disconnect(nowait=True)
            return await self._connect()
        except BaseException:
            self._free.release()
            raise

    async def _connect(self) -> Any:
        connection = self.make_connection()
        try:
            async with self._throttle.connecting():
                await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        connection.socket_timeout = None  # from here on a trip is bounded as a whole, not each read of it
        self.peer = connection.getpeername()
        return connection

    async def retire(self) -> None:
        """Close idle connections now, and each one in use at the end of its trip."""
        self._retired = True
        while self._idle:
            await self._idle.pop().disconnect()


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except exceptions.ResponseError as error:
        return error


async def _is_usable(connection: Any) -> bool:
    """Return whether the connection can be used: the server may have closed it meanwhile."""
    try:
        return not await connection.can_read()
    except (exceptions.RedisError, OSError):
        return False


def tls_context(location: RedisLocation) -> ssl.SSLContext | None:
    """Make the context of TLS connections from the files that *location* names. Blocks: call it in a thread.

    Raises:
        OSError: a file cannot be read or used.
    """
    if not location.tls:
        return None
    options: dict[str, Any] = {name: value for name, value in location.tls_options.items() if name != "server_name"}
    check = options.pop("check_hostname", "true").lower() not in {"0", "f", "false", "n", "no"}
    required = options.pop("cert_reqs", "required")
    return RedisSSLContext(cert_reqs=required, check_hostname=check, **options).get()


def connection_options(
    location: RedisLocation, address: tuple[str, int] | None, tls: ssl.SSLContext | None
) -> dict[str, Any]:
    """Return the options of a connection to *address*, or to the socket of *location*."""
    options: dict[str, Any] = {
        "socket_connect_timeout": CALL_TIMEOUT,
        "socket_timeout": CALL_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "client_name": "token-broker",
        "driver_info": None,  # else each connection reads package metadata from disk
        "username": location.username,
        "password": location.password,
        "db": location.db,
    }
    if address is None:
        return {**options, "connection_class": _Unix, "path": location.path}
    options |= {"host": address[0], "port": address[1], "socket_keepalive": True}
    if tls is None:
        return {**options, "connection_class": _Tcp}
    named = location.tls_options.get("server_name")
    return {**options, "connection_class": Tls, "context": tls, "server_name": named}
