"""The callers' connections: how many there may be, and how long one may stall in the middle of a request.

Callers cannot exhaust file descriptors, so journal, store and providers always get one: at the limit connections are
closed for new ones, those first that have shown no key (`connection_pool`). The side that faces the internet has its
own share, so that nothing which happens there takes a connection from callers.

aiohttp limits the time between two requests, and until the first one. It does not limit how long the head of a request,
or the reading of a response, may take. A scan of all connections every few seconds does, and costs a request nothing.
`requests` limits the time of a body.
"""

from __future__ import annotations

import asyncio
import resource
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from broker.api.cached_responses import json_body
from broker.api.connection_pool import Connection, Pool
from broker.api.peers import Peers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from broker.api.server import Protocol
    from broker.process.metrics import Metrics
    from broker.settings import Http

log = structlog.get_logger()

_WAITING_PART = 0.9
_PUBLIC_PART = 0.25
"""Of all connections, those that belong to `http.public_listen`, where there is one."""
_SPARE = 64
"""Connections over the limit, at most, while others are young: each side has as many."""
_SCANNED_AT_ONCE = 2000
"""Connections that a scan looks at before others are served: a millisecond."""
_SCANS = 4
"""Scans within the shortest time limit."""
_DEFAULT_LIMIT = 60_000
"""Where open files have no limit."""
_LOG_INTERVAL = 60.0
"""Seconds without a closed connection after which `connections.full` is logged again."""
_FULL_BODY = json_body(
    {"error": "too_many_connections", "error_description": "every connection is busy: try again in a moment"}
)
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
    b"Retry-After: 1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_FULL_BODY), _FULL_BODY)
)


def limit_connections(wanted: int, files: int) -> int:
    """Return how many connections callers may have.

    A quarter of the open files is kept for journal, store and providers; half where that is less than 256 files, and
    never more than 4096.

    Args:
        wanted: the limit of the settings; 0 for none.
        files: the limit of open files.
    """
    if files == resource.RLIM_INFINITY:
        return wanted or _DEFAULT_LIMIT
    left = files - min(max(files // 4, min(files // 2, 256)), 4096)
    return min(wanted, left) if wanted else left


def spare_connections(limit: int, files: int) -> int:
    """Return how many connections over the limit there may be for a moment: of the files that it keeps, a quarter."""
    return _SPARE if files == resource.RLIM_INFINITY else min(_SPARE, max(0, files - limit) // 4)


@dataclass(slots=True)
class Connections:
    """All connections of callers, over every listener. The timeouts are in seconds.

    read_timeout: until the first byte, and of a response or a body that stands still.
    head_timeout: of the head of a request.
    """

    limit: int
    read_timeout: float
    head_timeout: float
    peers: Peers
    """Whose word about the client of a connection counts."""
    _callers: Pool
    _public: Pool
    _metrics: Metrics
    _full_until: float = 0.0
    _next_scan: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._callers) + len(self._public)

    @classmethod
    def from_settings(cls, http: Http, metrics: Metrics) -> Connections:
        """Make the connections that the settings and the limit of open files allow."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = limit_connections(http.max_connections, files)
        public = max(1, int(limit * _PUBLIC_PART)) if http.public_listen else 0
        per_peer, spare = http.max_connections_per_peer, spare_connections(limit, files)
        return cls(
            limit=limit,
            read_timeout=http.read_timeout.total_seconds(),
            head_timeout=http.body_timeout.total_seconds(),
            peers=Peers.from_settings(http),
            _callers=Pool(max(1, limit - public), per_peer, spare),
            _public=Pool(public, per_peer, spare),
            _metrics=metrics,
        )

    @property
    def trouble(self) -> str:
        """A sentence where nearly all connections are taken; else an empty text."""
        for pool, whose in ((self._callers, ""), (self._public, " of http.public_listen")):
            if len(pool) > max(1, int(pool.limit * _WAITING_PART)):
                return (
                    f"{len(pool)} of {pool.limit} connections{whose} are open, so the longest-idle ones are closed for "
                    "new ones: find out who opens so many, or raise http.max_connections and the limit of open files"
                )
        return ""

    @property
    def may_wait(self) -> int:
        """How many of them may belong to long polls: the rest is for requests that are answered at once."""
        return max(1, int(self._callers.limit * _WAITING_PART))

    def add(self, protocol: Protocol, transport: asyncio.Transport) -> None:
        """Count a new connection; at the limit close others for it, or refuse it where callers use all of them."""
        now = asyncio.get_running_loop().time()
        connection, pool = Connection(protocol, transport, now, now), self._pool(protocol)
        peer = "" if protocol.by_proxy else protocol.peer
        crowd = pool.crowd(peer)
        of_peer = pool.make_room_of(crowd) if crowd else []
        self._close_all(of_peer or ())
        others = pool.make_room(now) if of_peer is not None else None
        self._close_all(others or ())
        if others is None:
            self._close("refused", connection, _FULL)
        else:
            pool.add(connection, peer)

    def serve(self, protocol: Protocol, peer: str) -> bool:
        """Count a connection of a proxy as one of *peer*, whose request came; return whether it may be answered."""
        pool = self._pool(protocol)
        crowd = [each for each in pool.crowd(peer) if each.protocol is not protocol]
        if crowd and len(crowd) >= pool.peer_limit:
            of_peer = pool.make_room_of(crowd)
            if of_peer is None:
                self._metrics.connections_closed.labels("refused").inc()
                return False
            self._close_all(of_peer)
        pool.serve(protocol, peer)
        return True

    def remove(self, protocol: Protocol) -> None:
        """Count a connection no longer; one that was closed here is not counted already."""
        self._pool(protocol).remove(protocol)

    def start(self) -> None:
        """Scan all connections now, and every few seconds until `stop`."""
        loop = asyncio.get_running_loop()
        self._next_scan = loop.call_later(min(self.read_timeout, self.head_timeout) / _SCANS, self.start)
        self._scan(iter([*self._callers, *self._public]))

    def stop(self) -> None:
        """Scan no more."""
        if self._next_scan is not None:
            self._next_scan.cancel()

    def _pool(self, protocol: Protocol) -> Pool:
        return self._public if protocol.is_public else self._callers

    def _scan(self, connections: Iterator[Connection]) -> None:
        """Close those whose time is over, a part of all at a time, so that others are served between two parts."""
        loop, left = asyncio.get_running_loop(), _SCANNED_AT_ONCE
        now = loop.time()
        for connection in connections:
            if connection.protocol.transport is not None:  # it was not closed meanwhile
                self._close_late(connection, now)
            left -= 1
            if not left:
                loop.call_soon(self._scan, connections)
                return

    def _close_late(self, connection: Connection, now: float) -> None:
        """Close a connection whose time is over: for a first byte, for the head of a request, or for a byte to move."""
        protocol, late = connection.protocol, now - self.read_timeout
        if 0 < protocol.head_began < now - self.head_timeout and protocol.is_idle:
            self._close("slow", connection)
        elif not protocol.is_used and connection.opened < late:
            self._close("silent", connection)
        elif connection.expects_bytes(now) and connection.moved < late:
            self._close("stalled", connection)

    def _close_all(self, connections: Iterable[Connection]) -> None:
        """Close connections to make room for another."""
        for connection in connections:
            self._close("room", connection)

    def _close(self, reason: str, connection: Connection, last_response: bytes = b"") -> None:
        self._metrics.connections_closed.labels(reason).inc()
        self._pool(connection.protocol).remove(connection.protocol)
        if last_response:
            connection.transport.write(last_response)
        connection.protocol.force_close()
        if reason != "refused" and connection.transport.get_write_buffer_size():
            connection.transport.abort()  # an orderly close would wait for bytes that nobody reads
        if reason in {"room", "refused"}:
            now = time.monotonic()
            if now >= self._full_until:
                log.warning("connections.full", limit=self.limit, open=len(self))
            self._full_until = now + _LOG_INTERVAL
