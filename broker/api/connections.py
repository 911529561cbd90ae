"""The callers' connections: how many there may be, and how long one may stall in the middle of a request.

Callers cannot exhaust file descriptors, so journal, store and providers always get one: at the limit the longest-idle
connections are closed, as nginx does. An idle connection costs its client no more than a new one.

aiohttp limits the time between two requests, and until the first one. It does not limit how long a request's body, or
the reading of a response, may take. A scan of all connections every few seconds does, and costs a request nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import resource
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from broker.api.cached_responses import json_body

if TYPE_CHECKING:
    from broker.api.server import Protocol
    from broker.process.metrics import Metrics
    from broker.settings import Http

log = structlog.get_logger()

_WAITING_PART = 0.9
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


@dataclass(slots=True, eq=False)
class _Connection:
    protocol: Protocol
    transport: asyncio.Transport
    opened: float
    moved: float
    """When bytes of a request or a response last moved, while some were expected to."""
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


@dataclass(slots=True)
class Connections:
    """All connections of callers, over every listener. *read_timeout* is in seconds."""

    limit: int
    read_timeout: float
    _metrics: Metrics
    _open: dict[Protocol, _Connection] = field(default_factory=dict)
    _full_until: float = 0.0
    _next_scan: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    @classmethod
    def from_settings(cls, http: Http, metrics: Metrics) -> Connections:
        """Make the connections that the settings and the limit of open files allow."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(limit_connections(http.max_connections, files), http.read_timeout.total_seconds(), metrics)

    @property
    def trouble(self) -> str:
        """A sentence where nearly all connections are taken; else an empty text."""
        if len(self) <= self.may_wait:
            return ""
        return (
            f"{len(self)} of {self.limit} connections are open, so the longest-idle ones are closed for new ones: find "
            "out who opens so many, or raise http.max_connections and the limit of open files"
        )

    @property
    def may_wait(self) -> int:
        """How many of them may belong to long polls: the rest is for requests that are answered at once."""
        return max(1, int(self.limit * _WAITING_PART))

    def add(self, protocol: Protocol, transport: asyncio.Transport) -> None:
        """Count a new connection; at the limit close idle ones for it, or refuse it where none idles."""
        now = asyncio.get_running_loop().time()
        connection = _Connection(protocol, transport, now, now)
        if len(self._open) >= self.limit and not self._make_room():
            self._close("refused", connection, _FULL)
            return
        self._open[protocol] = connection

    def remove(self, protocol: Protocol) -> None:
        """Count a connection no longer; one that was closed here is not counted already."""
        self._open.pop(protocol, None)

    def start(self) -> None:
        """Scan all connections now, and every few seconds until `stop`."""
        loop = asyncio.get_running_loop()
        self._next_scan = loop.call_later(self.read_timeout / 4, self.start)
        self._close_stalled(loop.time())

    def stop(self) -> None:
        """Scan no more."""
        if self._next_scan is not None:
            self._next_scan.cancel()

    def _close_stalled(self, now: float) -> None:
        """Close connections over which, for the read timeout, no first request came or no expected byte moved."""
        late = now - self.read_timeout
        for connection in list(self._open.values()):
            if not connection.protocol.is_used and connection.opened < late:
                self._close("silent", connection)
            elif connection.expects_bytes(now) and connection.moved < late:
                self._close("stalled", connection)

    def _make_room(self) -> bool:
        """Close the longest-idle connections; return False where none idles."""
        idle = [connection for connection in self._open.values() if connection.protocol.is_idle]
        for connection in heapq.nsmallest(max(1, len(idle) // 32), idle, key=lambda c: c.protocol.idle_since):
            self._close("room", connection)
        return bool(idle)

    def _close(self, reason: str, connection: _Connection, last_response: bytes = b"") -> None:
        self._metrics.connections_closed.labels(reason).inc()
        self._open.pop(connection.protocol, None)
        if last_response:
            connection.transport.write(last_response)
        connection.protocol.force_close()
        if reason == "stalled":
            connection.transport.abort()  # an orderly close would wait for bytes that nobody reads
        if reason in {"room", "refused"}:
            now = time.monotonic()
            if now >= self._full_until:
                log.warning("connections.full", limit=self.limit, open=len(self._open))
            self._full_until = now + _LOG_INTERVAL
