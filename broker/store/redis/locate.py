"""Find the one primary: as the URL names it, as the Sentinels say, or as the Cluster's node that owns the slot.

All that may know are asked at once, each over its own short connection, and the most votes win: one Sentinel or node
that was cut off from the others still names the previous primary.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from redis import exceptions
from redis.crc import key_slot

from broker.errors import StoreUnavailable
from broker.store.redis.certificate import describe_mismatch
from broker.store.redis.connections import CALL_TIMEOUT, connection_options
from broker.store.redis.cures import find_cure, sentinel_cure
from broker.store.redis.replies import describe

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from broker.settings.redis_url import RedisLocation

Address = tuple[str, int]
SLOT = key_slot(b"{0}")
"""The slot that holds every key of a broker."""
_LATECOMERS = 0.3
"""Seconds to wait for the remaining replies once the first has arrived."""
_MAX_NODES = 12
_START_SENTINEL = "start the Sentinels, or correct their addresses in redis.url"
_START_NODE = "start the nodes of the Cluster, or correct their addresses in redis.url"
_DEFAULT_LAG_MS = 10_000
"""Redis's default of `min-replicas-max-lag`."""


def elect(votes: Sequence[Address]) -> Address | None:
    """Return the address with most votes, of equals the one named first."""
    return Counter(votes).most_common(1)[0][0] if votes else None


def sentinel_vote(reply: Any) -> Address | None:
    """Return the address in a Sentinel's reply; None if it knows no such service."""
    return (reply[0].decode(), int(reply[1])) if isinstance(reply, list) and len(reply) > 1 else None


def cluster_vote(reply: Any, asked: Address) -> Address | None:
    """Return the owner of the slot by a reply to CLUSTER SLOTS; a node without a name is the one *asked*."""
    for first, last, owner, *_ in reply:
        if first <= SLOT <= last:
            host = owner[0].decode() if owner[0] else asked[0]
            return None if host == "?" else (host, int(owner[1]))
    return None


def cluster_nodes(reply: Any) -> list[Address]:
    """Return all nodes that a reply to CLUSTER SLOTS names."""
    return [(node[0].decode(), int(node[1])) for _, _, *nodes in reply for node in nodes if node[0] and node[0] != b"?"]


def is_replica(info: bytes) -> bool:
    """Return whether INFO's replication section is a replica's."""
    return b"role:slave" in info or b"role:replica" in info


def bounds_lag(info: bytes) -> bool:
    """Return whether a primary, by INFO's replication section, stops accepting writes once it lost its replicas.

    Where it does not (`min-replicas-to-write` is 0) no hold-off would be long enough.
    """
    return b"min_slaves_good_slaves" in info


def lag_ms(reply: Any) -> int:
    """Return how long (ms) such a primary still accepts writes; a broker cut off with it claims there for so long.

    *reply* is the one to CONFIG GET min-replicas-max-lag; Redis's default if it is an error.
    """
    try:
        return int(reply[1]) * 1000
    except (TypeError, IndexError, ValueError):
        return _DEFAULT_LAG_MS


class Locator:
    """Find the current address of the primary; whoever connects resolves the name."""

    def __init__(self, location: RedisLocation) -> None:
        self.location = location
        self._nodes: list[Address] = []

    async def locate(self, tls: ssl.SSLContext | None) -> Address | None:
        """Return the primary's address, None for a socket.

        Raises:
            StoreUnavailable: nobody knows; the message says why.
        """
        match self.location.topology:
            case "socket":
                return None
            case "host":
                return self.location.hosts[0]
            case "sentinel":
                return await self._ask_sentinels(tls)
            case "cluster":
                return await self._ask_cluster(tls)

    async def is_replaced(self, address: Address | None, tls: ssl.SSLContext | None) -> bool:
        """Return whether more than half of the Sentinels name another primary by now; a few stray ones do not count."""
        votes, _, _ = await self._poll_sentinels(tls)
        named = elect([vote for vote in votes if vote])
        return named not in {None, address} and votes.count(named) > len(self.location.hosts) / 2

    async def _poll_sentinels(self, tls: ssl.SSLContext | None) -> tuple[list[Address | None], str, str | None]:
        ask = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.location.service)
        return await self._poll(self.location.hosts, ask, tls, lambda reply, _: sentinel_vote(reply))

    async def _ask_sentinels(self, tls: ssl.SSLContext | None) -> Address:
        votes, trouble, cure = await self._poll_sentinels(tls)
        if found := elect([vote for vote in votes if vote]):
            return found
        if votes:
            words = f"Redis: the Sentinels know no service {self.location.service!r}"
            raise StoreUnavailable(words, cure="name the service in redis.url as `sentinel monitor` does")
        raise StoreUnavailable(f"Redis: no Sentinel replies: {trouble}", cure=cure or _START_SENTINEL)

    async def _ask_cluster(self, tls: ssl.SSLContext | None) -> Address:
        asked = list(dict.fromkeys((*self.location.hosts, *self._nodes)))[:_MAX_NODES]

        def vote(reply: Any, node: Address) -> Address | None:
            self._nodes = cluster_nodes(reply) or self._nodes
            return cluster_vote(reply, node)

        votes, trouble, cure = await self._poll(asked, ("CLUSTER", "SLOTS"), tls, vote)
        if found := elect([vote for vote in votes if vote]):
            return found
        if votes:
            cure = "assign the slot to a node (CLUSTER ADDSLOTS, redis-cli --cluster fix)"
            raise StoreUnavailable("Redis: no node of the Cluster owns the broker's slot", cure=cure)
        raise StoreUnavailable(f"Redis: no node of the Cluster replies: {trouble}", cure=cure or _START_NODE)

    async def _poll(
        self,
        asked: Sequence[Address],
        command: tuple[str, ...],
        tls: ssl.SSLContext | None,
        read: Callable[[Any, Address], Address | None],
    ) -> tuple[list[Address | None], str, str | None]:
        """Ask all at once.

        Returns:
            Every vote, sooner if more than half agree, and the words and the cure of the last failure.
        """
        votes: list[Address | None] = []
        trouble, cure = "did not reply in time", None
        polled = {asyncio.create_task(self._ask(address, command, tls)): address for address in asked}
        waiting = set(polled)
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=_LATECOMERS if votes else None, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for task in done:
                    try:
                        votes.append(read(task.result(), polled[task]))
                    except (exceptions.RedisError, OSError, TimeoutError) as error:
                        words = await describe_mismatch(self.location, polled[task], error, announced=False)
                        trouble, cure = words or describe(error), self._cure(error)
                named = elect([vote for vote in votes if vote])
                if named is not None and votes.count(named) > len(asked) / 2:
                    break
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*polled, return_exceptions=True)
        return votes, trouble, cure

    def _cure(self, error: Exception) -> str | None:
        cure = sentinel_cure(error, self.location.sentinels) if self.location.topology == "sentinel" else None
        return cure or find_cure(error)

    async def _ask(self, address: Address, command: tuple[str, ...], tls: ssl.SSLContext | None) -> Any:
        """Ask one server. A Sentinel gets its own password, never the servers'; one that wants none is asked again.

        Anybody who has taken a Sentinel's place would otherwise learn the password that opens the store.
        """
        options = connection_options(self.location, address, tls)
        if self.location.topology != "sentinel":
            async with asyncio.timeout(2 * CALL_TIMEOUT):
                return await _once(options, command)
        username, password = self.location.sentinels
        nobody = {**options, "db": 0, "username": None, "password": None}
        async with asyncio.timeout(2 * CALL_TIMEOUT):
            try:
                return await _once({**nobody, "username": username, "password": password}, command)
            except exceptions.AuthenticationError as error:
                if password is None:
                    raise
                try:
                    return await _once(nobody, command)
                except exceptions.AuthenticationError:
                    raise error from None


async def _once(options: dict[str, Any], command: tuple[str, ...]) -> Any:
    options = dict(options)
    connection = options.pop("connection_class")(**options)
    try:
        await connection.connect()
        await connection.send_command(*command, check_health=False)
        return await connection.read_response()
    finally:
        with contextlib.suppress(exceptions.RedisError, OSError):
            await connection.disconnect(nowait=True)
