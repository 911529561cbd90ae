"""The connections of one side, callers' or the internet's: how many there are, whose they are, and which go first.

Knows nothing of metrics and settings. A connection whose request showed a valid key is *known*. All others can be
closed for a new one whatever they do.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from broker.api.peers import site

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from broker.api.server import Protocol

    _Ranked = tuple[int, int, float, "Connection"]

_LOOKED_AT = 2048
"""Connections, oldest first, among which is chosen before more are looked at."""
_AT_ONCE = 32
"""One in so many of them is closed at once, so that a flood does not look at all of them for each new one."""
YOUNG = 0.25
"""Seconds in which a new connection is not closed for others: its request may be in the socket already."""
_WAITS_FOR_CLIENT, _KNOWN_AND_IDLE, _UNKNOWN = range(3)


@dataclass(slots=True, eq=False)
class Connection:
    """One connection, and when something moved over it last."""

    protocol: Protocol
    transport: asyncio.Transport
    opened: float
    moved: float
    """When bytes of a request or a response last moved, while some were expected to."""
    peer: str = ""
    """Whose it is, as `peers.site` says; empty: nobody's, such as a Unix socket's or an idle one of a proxy."""
    seen: tuple[int, int] = (0, 0)
    """At the last scan: bytes of the request's body received, and bytes of responses not yet sent."""

    def expects_bytes(self, now: float) -> bool:
        """Return whether bytes should move: of a body that a handler waits for, or of a response.

        Updates `moved` when some have moved since the last scan.
        """
        body, unsent = self.protocol.awaited_body, self.transport.get_write_buffer_size()
        if body is None and not unsent:
            self.moved = now
            return False
        seen = (0 if body is None else body.total_bytes, unsent)
        if seen != self.seen:
            self.seen, self.moved = seen, now
        return True

    @property
    def rank(self) -> int | None:
        """How soon it goes where room is needed; None: it stays."""
        protocol = self.protocol
        if protocol.is_known:
            return _KNOWN_AND_IDLE if protocol.is_idle else None
        waits = protocol.waits_for_client or self.transport.get_write_buffer_size() > 0
        return _WAITS_FOR_CLIENT if waits else _UNKNOWN


@dataclass(slots=True)
class Pool:
    """At most *limit* connections, and *peer_limit* of one peer; 0: no limit of a peer's own."""

    limit: int
    peer_limit: int = 0
    spare: int = 0
    """How many more there may be while others are young: a flood would close a caller's before it is read."""
    _open: dict[Protocol, Connection] = field(default_factory=dict)
    _of_peer: defaultdict[str, set[Connection]] = field(default_factory=lambda: defaultdict(set))

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._open.values()))

    def add(self, connection: Connection, peer: str) -> None:
        """Count a connection, of *peer* (its address, or empty)."""
        self._open[connection.protocol] = connection
        self._give(connection, peer)

    def remove(self, protocol: Protocol) -> None:
        """Count a connection no longer, if it is counted."""
        connection = self._open.pop(protocol, None)
        if connection is not None:
            self._take(connection)

    def serve(self, protocol: Protocol, peer: str) -> Connection | None:
        """Have a proxy's connection be that of *peer*, whose request came over it; return it if it is counted."""
        connection = self._open.get(protocol)
        if connection is not None and site(peer) != connection.peer:
            self._take(connection)
            self._give(connection, peer)
        return connection

    def crowd(self, peer: str) -> list[Connection]:
        """Return the connections of *peer* where one more is one too many; else none. A proxy's idle ones are none."""
        if not self.peer_limit or not peer:
            return []
        held = self._of_peer.get(site(peer), ())
        if len(held) < self.peer_limit:
            return []
        busy = [each for each in held if not (each.protocol.by_proxy and each.protocol.is_idle)]
        return busy if len(busy) >= self.peer_limit else []

    def make_room(self, now: float) -> list[Connection] | None:
        """Return what is closed for one more connection; None: there is no room for it.

        First goes what waits for a client that has shown no key, of the peer that has the most connections, longest
        idle first. Then what callers keep idle, and then what the broker works on for others.
        """
        over = len(self._open) - self.limit + 1
        if over <= 0:
            return []
        first = _of_best_rank(self._ranked(iter(self._open.values())))
        old = [each for each in first if each[-1].opened < now - YOUNG]
        if old:
            return _longest_idle(old, max(over, len(old) // _AT_ONCE))
        if over <= min(self.spare, len(first)):
            return []
        return _longest_idle(first, over) or None

    def make_room_of(self, crowd: list[Connection]) -> list[Connection] | None:
        """Return what is closed of a *crowd* for one more connection of its peer; None: there is no room for it."""
        return _longest_idle(_of_best_rank(self._ranked(iter(crowd))), 1) or None

    def _ranked(self, connections: Iterator[Connection]) -> list[_Ranked]:
        found: list[_Ranked] = []
        while batch := list(islice(connections, _LOOKED_AT)):
            for each in batch:
                rank = each.rank
                if rank is not None:
                    found.append((rank, -len(self._of_peer.get(each.peer, ())), each.protocol.idle_since, each))
            if any(rank == _WAITS_FOR_CLIENT for rank, *_ in found):
                break
        return found

    def _give(self, connection: Connection, peer: str) -> None:
        if peer:
            connection.peer = site(peer)
            self._of_peer[connection.peer].add(connection)

    def _take(self, connection: Connection) -> None:
        if connection.peer:
            held = self._of_peer[connection.peer]
            held.discard(connection)
            if not held:
                del self._of_peer[connection.peer]
            connection.peer = ""


def _of_best_rank(ranked: list[_Ranked]) -> list[_Ranked]:
    best = min((rank for rank, *_ in ranked), default=0)
    return [each for each in ranked if each[0] == best]


def _longest_idle(ranked: list[_Ranked], many: int) -> list[Connection]:
    """Return *many* of them, of the peers that have the most connections first."""
    return [each[-1] for each in heapq.nsmallest(many, ranked, key=lambda each: each[:-1])]
