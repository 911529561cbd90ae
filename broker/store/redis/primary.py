"""The one Redis primary: found, used, and found again after it moved. Every call is bounded in time.

Only a server that says it is a primary is ever used, for reads as for writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from redis import exceptions

from broker.errors import StoreUnavailable
from broker.settings.redis_url import parse_redis_url
from broker.store.redis.certificate import describe_mismatch
from broker.store.redis.connections import (
    PAUSE,
    Argument,
    ConnectionThrottle,
    Pool,
    connection_options,
    tls_context,
)
from broker.store.redis.cures import announced_unreachable, replica_error, unavailable
from broker.store.redis.locate import Locator, bounds_lag, is_replica, lag_ms
from broker.store.redis.replies import describe, is_damaged, is_unreached, may_have_moved, wrong_store
from broker.store.redis.subscription import Subscription

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from broker.settings.redis_url import Credentials
    from broker.store.redis.locate import Address
    from broker.store.scripts import Script

log = structlog.get_logger()
_NAMES = "name the server in redis.url as its certificate does, or have it announced by that name"
_LOCATE_LIMIT = 6.0
"""Seconds for finding the primary, connecting and verifying it."""
_PROOF_MS = 1700
"""How long WAITAOF may take: a replica reports what it has synced once a second, and `CALL_TIMEOUT` is 2 s."""
_CONFIRM_EVERY = 2.0
"""Seconds between two questions to the Sentinels whether the primary is still the one. An old one that they replaced
accepts writes until it knows; the broker must leave it before the fence of the new one opens."""


@dataclass(slots=True, eq=False)
class _Located:
    """The primary at one address, and the connections to it."""

    address: Address | None
    peer: str | None
    """The IP address of the connection: later the name may resolve to another one."""
    pool: Pool


class Primary:
    """Commands and scripts on the primary behind a URL, and a subscription to it.

    Every failure below is raised as `StoreUnavailable`: the store did not reply, or replied with an error.
    """

    def __init__(self, url: str, *, password: str | None = None, sentinels: Credentials = (None, None)) -> None:
        self._location = parse_redis_url(url).with_passwords(password, sentinels)
        self.database = self._location.db
        self._locator = Locator(self._location)
        self._throttle = ConnectionThrottle()
        self._located: _Located | None = None
        self._locating: asyncio.Task[_Located] | None = None
        self._next_locate = 0.0
        self._confirmed_at = 0.0
        self._background: set[asyncio.Task[None]] = set()
        self._last_address: Address | None = None
        self._warned: set[str] = set()
        self.mark = ("", "")
        """The key that names the server's store, and the id of this broker's store. Every script gets both last, and
        runs in no other store."""
        self.lag_ms = 0
        """How long (ms) a primary that lost its replicas still accepts writes, where that is bounded."""
        self.unproved = ""
        """Why the last durable run could not be proved to be on disk."""
        self.replicas = 0
        """How many replicas it was to be on."""

    async def close(self) -> None:
        """Close every connection."""
        tasks = [*self._background, *([self._locating] if self._locating else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._located is not None:
            await _retire(self._located)
            self._located = None

    async def call(self, *command: Argument) -> Any:
        """Send one command; return its reply as Redis sent it (bytes)."""
        return (await self._trip([command]))[0]

    async def pipeline(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send commands in one trip on one connection, without a transaction."""
        return await self._trip(commands) if commands else []

    async def pipeline_each(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send commands like `pipeline`; where a key is of another type the error stands for the reply."""

        async def send(pool: Pool) -> list[Any]:
            return [reply if is_damaged(reply) else _raise_error(reply) for reply in await pool.trip(commands)]

        return list(await self._use(send)) if commands else []

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run a script by its hash; send its text only to a server that does not know it yet.

        Raises:
            WrongStore: the server holds another store.
        """
        params = self._params(keys, args)

        async def send(pool: Pool) -> Any:
            return _raise_error((await pool.evaluate(script, [params]))[0])

        return await self._use(send)

    async def run_each(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """Run a script once for each of *calls* (keys and arguments), in this order, in one trip on one connection.

        Returns:
            The replies; `StoreUnavailable` stands for a call that Redis refused, unless it refused all of them.
        """
        params = [self._params(keys, args) for keys, args in calls]

        async def send(pool: Pool) -> list[Any]:
            replies = await pool.evaluate(script, params)
            if all(isinstance(reply, Exception) for reply in replies):
                raise replies[0]  # the server fails, not the call
            return replies

        replies: list[Any] = await self._use(send)
        return [unavailable(reply) if isinstance(reply, Exception) else reply for reply in replies]

    async def _trip(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        async def send(pool: Pool) -> list[Any]:
            return [_raise_error(reply) for reply in await pool.trip(commands)]

        replies: list[Any] = await self._use(send)
        return replies

    async def run_durably(
        self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]], *, replicas: int
    ) -> tuple[list[Any], bool]:
        """Run a script once for each of *calls* (keys and arguments), and WAITAOF, on one connection in one trip.

        On another connection WAITAOF would prove nothing.

        Returns:
            The replies, an error standing for the call that it met, and whether the writes are known to be on disk
            here and on *replicas* replicas. A server without AOF or WAITAOF gives False, and is warned of once.
        """
        wait = ("WAITAOF", 1, replicas, _PROOF_MS)
        params = [self._params(keys, args) for keys, args in calls]

        async def send(pool: Pool) -> tuple[list[Any], Any]:
            *replies, synced = await pool.evaluate(script, params, wait)
            if all(isinstance(reply, Exception) for reply in replies):
                raise replies[0]  # the server fails, not the call
            return replies, synced

        replies, synced = await self._use(send)
        return replies, self._proved(synced, replicas)

    def recognise(self, store: bytes | BaseException | None) -> None:
        """Check that *store*, the mark that the server holds, is this broker's.

        Raises:
            WrongStore: it is not.
        """
        held = store.decode("ascii", "replace") if isinstance(store, bytes) else ""  # or its key is no hash
        if held != self._known_mark()[1]:
            raise wrong_store(held)

    @property
    def store_id(self) -> str:
        """The id of the store that `mark` names; empty until it is known."""
        return self.mark[1]

    def _known_mark(self) -> tuple[str, str]:
        if not self.mark[1]:
            raise StoreUnavailable("Redis: which store it holds is not known yet")
        return self.mark

    def _params(self, keys: Sequence[str], args: Sequence[Argument]) -> tuple[Argument, ...]:
        meta, store_id = self._known_mark()
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
            log.warning("commit.unproved", why=why, hint="the commit counts, but nothing proves that it is on disk")
        return False

    @asynccontextmanager
    async def subscription(self, pattern: str) -> AsyncIterator[Subscription]:
        """Subscribe to all channels that match *pattern*, on a separate connection; the body gets it confirmed."""
        located = await self._current()
        connection: Any = located.pool.make_connection()
        try:
            try:
                async with self._throttle.connecting():
                    await connection.connect()
                await connection.send_command("PSUBSCRIBE", pattern, check_health=False)
                await connection.read_response()
            except (exceptions.RedisError, OSError, TimeoutError) as error:
                raise unavailable(error) from None
            yield Subscription(connection, lambda: self._moved_from(located))
        finally:
            with contextlib.suppress(exceptions.RedisError, OSError):
                await connection.disconnect(nowait=True)

    def _moved_from(self, located: _Located) -> bool:
        now = self._located
        return now is not None and (now.address, now.peer) != (located.address, located.peer)

    async def _use(self, work: Callable[[Pool], Awaitable[Any]]) -> Any:
        located = await self._current()
        try:
            reply = await work(located.pool)
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            if is_unreached(error):
                self._throttle.note_failure(error)
            if may_have_moved(error):
                self._leave(located)
            raise unavailable(error) from None
        self._throttle.note_success()
        return reply

    async def _current(self) -> _Located:
        """Return the primary; concurrent callers share one search for it."""
        if self._located is not None:
            if self._location.topology == "sentinel" and time.monotonic() > self._confirmed_at + _CONFIRM_EVERY:
                self._confirmed_at = time.monotonic()
                self._spawn(self._confirm(self._located))
            return self._located
        if self._locating is None or self._locating.done():
            self._locating = asyncio.create_task(self._locate(), name="locate Redis")
            self._locating.add_done_callback(_retrieve)
        return await asyncio.shield(self._locating)

    def _leave(self, located: _Located) -> None:
        """Stop using this server; let calls in flight finish."""
        if self._located is located:
            self._located = None
            self._spawn(_retire(located))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _locate(self) -> _Located:
        await asyncio.sleep(self._next_locate - time.monotonic())
        self._next_locate = time.monotonic() + PAUSE
        try:
            async with asyncio.timeout(_LOCATE_LIMIT):
                located = await self._connect()
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            raise unavailable(error) from None
        if located.address != self._last_address and self._location.topology in {"sentinel", "cluster"}:
            log.info("store.located", address="{}:{}".format(*located.address or ()), way=self._location.topology)
        self._last_address = located.address
        self._located, self._confirmed_at = located, time.monotonic()
        return located

    async def _connect(self) -> _Located:
        """Find the primary and open one good connection to it; raise whatever failed."""
        tls = await self._tls()
        address = await self._locator.locate(tls)
        pool = Pool(self._throttle, **connection_options(self._location, address, tls))
        try:
            peer, self.lag_ms = await self._verify(pool)
        except BaseException as error:
            with contextlib.suppress(exceptions.RedisError, OSError):
                await pool.retire()
            if words := await describe_mismatch(self._location, address, error, announced=True):
                raise StoreUnavailable(f"Redis: {words}", cure=_NAMES) from None
            if away := announced_unreachable(self._location.topology, address, error):
                raise away from None
            raise
        return _Located(address, peer, pool)

    async def _tls(self) -> ssl.SSLContext | None:
        """Return the TLS context, read anew each time, so that a renewed bundle counts from the next connection on."""
        if not self._location.tls:
            return None
        try:
            return await asyncio.to_thread(tls_context, self._location)
        except (OSError, ValueError) as error:  # ssl.SSLError is one
            words = f"Redis: the files of its ssl_ options are not usable: {error}"
            raise StoreUnavailable(words, cure="correct the files that redis.url names in its ssl_ options") from None

    async def _verify(self, pool: Pool) -> tuple[str | None, int]:
        """Check that the server is a primary.

        Returns:
            Its IP address, and for how long it writes without replicas (ms).

        Raises:
            StoreUnavailable: it is a replica.
        """
        info = (await pool.trip([("INFO", "replication")]))[0]
        if isinstance(info, exceptions.NoPermissionError):
            return None, 0  # INFO is denied; a replica will reject the first claim
        if is_replica(_raise_error(info)):
            raise replica_error(self._location.topology)
        if not bounds_lag(info):
            return pool.peer, 0
        return pool.peer, lag_ms((await pool.trip([("CONFIG", "GET", "min-replicas-max-lag")]))[0])

    async def _confirm(self, located: _Located) -> None:
        """Leave a primary that the Sentinels have replaced."""
        with contextlib.suppress(StoreUnavailable, exceptions.RedisError, OSError):
            if await self._locator.is_replaced(located.address, await self._tls()):
                self._leave(located)


def _raise_error(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


async def _retire(located: _Located) -> None:
    with contextlib.suppress(exceptions.RedisError, OSError):
        await located.pool.retire()


def _retrieve(task: asyncio.Task[_Located]) -> None:
    """Retrieve the exception: every caller may have left, and asyncio reports one that nobody retrieved."""
    if not task.cancelled():
        task.exception()
