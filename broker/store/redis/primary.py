"""The one Redis primary: found, used, and found again when it is elsewhere. Every call is bounded in time.

Only a server that says it is a primary is ever used, to read as to write.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from redis import exceptions

from broker.errors import StoreUnavailable
from broker.settings.redis_url import parse_redis_url
from broker.store.redis.certificate import certificate_words
from broker.store.redis.connections import CALL_TIMEOUT, PAUSE, Argument, Gate, Pool, connection_options, tls_context
from broker.store.redis.locate import Locator, bounds_lag, is_replica, lag_ms
from broker.store.redis.replies import describe, elsewhere, foreign, not_ours, unreached

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from broker.store.redis.locate import Address
    from broker.store.scripts import Script

log = structlog.get_logger()
_WHOSE = {"sentinel": "what the Sentinels name ", "cluster": "what the Cluster names "}
_LOCATE_LIMIT = 6.0
"""Seconds for finding the primary, connecting and verifying it."""
_PROOF_MS = 1700
"""How long WAITAOF may take: a replica tells what it has synced once a second, and our own time-out is 2 s."""
_CONFIRM_EVERY = 2.0
"""Seconds after which the Sentinels are asked whether the primary is still the one. An old one that they gave up
takes writes as long as it does not know; we must leave it before the fence of the new one opens."""
_TICK = 1.0
_MOST_HEARD = 64
"""Messages that are heard together."""
_QUIET = 3.0
"""Seconds without a message after which a subscription is tried with a PING."""


@dataclass(slots=True, eq=False)
class _Located:
    """The primary at one address, and the connections to it."""

    address: Address | None
    peer: str | None
    """The IP address that was connected to: a name may mean another one later."""
    pool: Pool


class Primary:
    """Commands and scripts on the primary behind a URL, and a subscription to it.

    Whatever goes wrong below is raised as `StoreUnavailable`: the store did not answer, or did not want to.
    """

    def __init__(self, url: str, *, password: str | None = None) -> None:
        self._place = parse_redis_url(url).with_password(password)
        self._locator = Locator(self._place)
        self._gate = Gate()
        self._located: _Located | None = None
        self._locating: asyncio.Task[_Located] | None = None
        self._next_locate = 0.0
        self._confirmed_at = 0.0
        self._background: set[asyncio.Task[None]] = set()
        self._last_address: Address | None = None
        self._warned: set[str] = set()
        self.ours = ("", "")
        """The key of the store's mark and the id of ours: every script is told them last, and runs nowhere else."""
        self.lag_ms = 0
        """How long (ms) a primary that lost its replicas goes on taking writes, as far as that is bounded."""
        self.unproved = ""
        """Why the last durable run could not be proved to be on disk."""
        self.replicas = 0
        """On how many replicas it was to be."""

    async def close(self) -> None:
        """Close every connection."""
        tasks = [*self._background, *([self._locating] if self._locating else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._located is not None:
            await _retired(self._located)
            self._located = None

    async def call(self, *command: Argument) -> Any:
        """Send one command; its reply as Redis sent it (bytes)."""
        return (await self._trip([command]))[0]

    async def pipeline(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send commands in one trip on one connection, without a transaction."""
        return await self._trip(commands) if commands else []

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run a script by its hash; sends its text only to a server that does not know it yet.

        Raises `WrongStore` where another store answers.
        """
        told = self._told(keys, args)

        async def send(pool: Pool) -> Any:
            reply = (await pool.trip([("EVALSHA", script.sha, *told)]))[0]
            if isinstance(reply, exceptions.NoScriptError):
                reply = (await pool.trip([("EVAL", script.text, *told)]))[0]
            return _unless_error(reply)

        return await self._use(send)

    async def _trip(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        async def send(pool: Pool) -> list[Any]:
            return [_unless_error(reply) for reply in await pool.trip(commands)]

        replies: list[Any] = await self._use(send)
        return replies

    async def run_durably(
        self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]], *, replicas: int
    ) -> tuple[list[Any], bool]:
        """Run a script once for each of *calls* (keys and arguments), and WAITAOF, on one connection in one trip.

        Gives the replies, an error standing for the call that it met, and whether the writes are known to be on disk
        here and on *replicas* replicas. On another connection WAITAOF would prove nothing. A server without AOF or
        WAITAOF gives False, and is told of once.
        """
        wait = ("WAITAOF", 1, replicas, _PROOF_MS)
        told = [self._told(keys, args) for keys, args in calls]

        async def send(pool: Pool) -> tuple[list[Any], Any]:
            *replies, synced = await pool.trip([*(("EVALSHA", script.sha, *each) for each in told), wait])
            if any(isinstance(reply, exceptions.NoScriptError) for reply in replies):
                *replies, synced = await pool.trip([*(("EVAL", script.text, *each) for each in told), wait])
            if all(isinstance(reply, Exception) for reply in replies):
                raise replies[0]  # it is the server, not the call
            return replies, synced

        replies, synced = await self._use(send)
        return replies, self._proved(synced, replicas)

    def recognise(self, store: bytes | None) -> None:
        """Raises `WrongStore` unless *store*, as the server's mark says it, is ours."""
        held = (store or b"").decode("ascii", "replace")
        if held != self._mark()[1]:
            raise not_ours(held)

    @property
    def store_id(self) -> str:
        """The id of the store that `ours` names; empty until it is known."""
        return self.ours[1]

    def _mark(self) -> tuple[str, str]:
        if not self.ours[1]:
            raise StoreUnavailable("Redis: which store it holds is not known yet")
        return self.ours

    def _told(self, keys: Sequence[str], args: Sequence[Argument]) -> tuple[Argument, ...]:
        meta, store_id = self._mark()
        return (len(keys) + 1, *keys, meta, *args, store_id)

    def _proved(self, synced: Any, replicas: int) -> bool:
        self.replicas, self.unproved = replicas, ""
        if isinstance(synced, (list, tuple)) and synced[0] >= 1 and synced[1] >= replicas:
            return True
        if isinstance(synced, Exception):
            why = f"Redis {describe(synced)}"
        elif synced[0] < 1:
            why = "its disk is too slow"
        else:
            why = f"fewer than redis.replicas = {replicas} replicas confirmed it"
        self.unproved = why
        if why not in self._warned:
            self._warned.add(why)
            log.warning("commit.unproved", why=why, hint="commits count, but nothing proves that they are on disk")
        return False

    @asynccontextmanager
    async def subscription(self, pattern: str) -> AsyncIterator[Subscription]:
        """A subscription to all channels that match *pattern*, on a connection of its own, confirmed."""
        located = await self._here()
        connection: Any = located.pool.make_connection()
        try:
            try:
                async with self._gate.passing():
                    await connection.connect()
                await connection.send_command("PSUBSCRIBE", pattern, check_health=False)
                await connection.read_response()
            except (exceptions.RedisError, OSError, TimeoutError) as error:
                raise StoreUnavailable(f"Redis: {describe(error)}") from None
            yield Subscription(connection, lambda: self._moved_from(located))
        finally:
            with contextlib.suppress(exceptions.RedisError, OSError):
                await connection.disconnect(nowait=True)

    def _moved_from(self, located: _Located) -> bool:
        now = self._located
        return now is not None and (now.address, now.peer) != (located.address, located.peer)

    async def _use(self, work: Callable[[Pool], Awaitable[Any]]) -> Any:
        located = await self._here()
        try:
            reply = await work(located.pool)
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            if unreached(error):
                self._gate.failed(error)
            if elsewhere(error):
                self._leave(located)
            raise (foreign(error) or StoreUnavailable(f"Redis: {describe(error)}")) from None
        self._gate.well()
        return reply

    async def _here(self) -> _Located:
        """The primary, located once for all who ask meanwhile."""
        if self._located is not None:
            if self._place.way == "sentinel" and time.monotonic() > self._confirmed_at + _CONFIRM_EVERY:
                self._confirmed_at = time.monotonic()
                self._do(self._confirm(self._located))
            return self._located
        if self._locating is None or self._locating.done():
            self._locating = asyncio.create_task(self._locate(), name="locate Redis")
            self._locating.add_done_callback(_heard)
        return await asyncio.shield(self._locating)

    def _leave(self, located: _Located) -> None:
        """Use it no more; what is under way there ends as it may."""
        if self._located is located:
            self._located = None
            self._do(_retired(located))

    def _do(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _locate(self) -> _Located:
        await asyncio.sleep(self._next_locate - time.monotonic())
        self._next_locate = time.monotonic() + PAUSE
        try:
            async with asyncio.timeout(_LOCATE_LIMIT):
                located = await self._connected()
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"Redis: {describe(error)}") from None
        if located.address != self._last_address and self._place.way in {"sentinel", "cluster"}:
            log.info("store.located", address="{}:{}".format(*located.address or ()), way=self._place.way)
        self._last_address = located.address
        self._located, self._confirmed_at = located, time.monotonic()
        return located

    async def _connected(self) -> _Located:
        """The primary with one good connection. Raises what went wrong."""
        tls = await self._tls()
        address = await self._locator.locate(tls)
        pool = Pool(self._gate, **connection_options(self._place, address, tls))
        try:
            peer, self.lag_ms = await self._verified(pool)
        except BaseException as error:
            with contextlib.suppress(exceptions.RedisError, OSError):
                await pool.retire()
            if words := await certificate_words(self._place, address, error, announced=True):
                raise StoreUnavailable(f"Redis: {words}") from None
            raise
        return _Located(address, peer, pool)

    async def _tls(self) -> ssl.SSLContext | None:
        """Read anew each time, so that a renewed bundle counts from the next connection on."""
        if not self._place.tls:
            return None
        try:
            return await asyncio.to_thread(tls_context, self._place)
        except (OSError, ValueError) as error:  # ssl.SSLError is one
            raise StoreUnavailable(f"Redis: the files of its ssl_ options cannot be used: {error}") from None

    async def _verified(self, pool: Pool) -> tuple[str | None, int]:
        """Make sure that a primary answers: gives its IP address, and for how long it writes without replicas (ms).

        Raises `StoreUnavailable` where a replica answers.
        """
        info = (await pool.trip([("INFO", "replication")]))[0]
        if isinstance(info, exceptions.NoPermissionError):
            return None, 0  # it does not let us ask; a replica will refuse the first claim
        if is_replica(_unless_error(info)):
            raise StoreUnavailable(f"Redis: {_WHOSE.get(self._place.way, '')}is a read-only replica")
        if not bounds_lag(info):
            return pool.peer, 0
        return pool.peer, lag_ms((await pool.trip([("CONFIG", "GET", "min-replicas-max-lag")]))[0])

    async def _confirm(self, located: _Located) -> None:
        """Leave a primary that the Sentinels have given up."""
        with contextlib.suppress(StoreUnavailable, exceptions.RedisError, OSError):
            if await self._locator.given_up(located.address, await self._tls()):
                self._leave(located)


class Subscription:
    """What is published, until the connection breaks or the primary is elsewhere."""

    def __init__(self, connection: Any, moved: Callable[[], bool]) -> None:
        self._connection = connection
        self._moved = moved
        self._heard_at = time.monotonic()
        self._pinged = False

    async def hear(self) -> list[tuple[bytes, bytes]]:
        """The next messages, each as channel and data: what is here already, together; none within a second: none.

        Raises `StoreUnavailable` at its end, after all that came before it: whatever is published later is lost for
        this subscription.
        """
        if self._moved():
            raise StoreUnavailable("Redis: the primary is elsewhere")
        received: list[Any] = []
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._receive(received)
            if not received:
                await self._check()
        except (exceptions.RedisError, OSError) as error:
            if not received:  # else the next turn meets it again
                raise StoreUnavailable(f"Redis: {describe(error)}") from None
        return [(reply[2], reply[3]) for reply in received if reply[0] == b"pmessage"]

    async def _receive(self, received: list[Any]) -> None:
        """Add what comes next to *received*, and what has come with it."""
        while not received or (len(received) < _MOST_HEARD and await self._connection.can_read()):
            reply = await self._connection.read_response(timeout=math.inf, disconnect_on_error=False)
            if reply is None:  # the socket's own time-out
                raise exceptions.ConnectionError("the connection timed out")
            received.append(reply)
            self._heard_at, self._pinged = time.monotonic(), False

    async def _check(self) -> None:
        silent = time.monotonic() - self._heard_at
        if self._pinged and silent > _QUIET + CALL_TIMEOUT:
            raise StoreUnavailable("Redis no longer answers on the subscription")
        if not self._pinged and silent > _QUIET:
            await self._connection.send_command("PING", check_health=False)
            self._pinged = True


def _unless_error(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


async def _retired(located: _Located) -> None:
    with contextlib.suppress(exceptions.RedisError, OSError):
        await located.pool.retire()


def _heard(task: asyncio.Task[_Located]) -> None:
    """Nobody may be left to hear how a search ended."""
    if not task.cancelled():
        task.exception()
