"""The connections of callers: how many there may be, and how long one may keep silent in the middle of a request.

Callers never take the last file descriptor, so that journal, store and providers always find one: at the limit, the
connections that have idled longest are closed to make room, as nginx does. An idle one costs its client nothing but a
new connection.

aiohttp limits the time between two requests, and to the first one; not how long a request's body, or the reading of an
answer, may take. A look at all connections every few seconds does, and costs a request nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import resource
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from aiohttp import web

    from broker.process.metrics import Metrics
    from broker.settings import Http

log = structlog.get_logger()

_WAITING_PART = 0.9
_MOST = 60_000
"""Where files have no limit."""
_FULL_FOR = 60.0
"""Seconds within which being full is logged once."""
_FULL_BODY = json.dumps(
    {"error": "too_many_connections", "error_description": "every connection is busy: try again in a moment"}
).encode()
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
    b"Retry-After: 1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_FULL_BODY), _FULL_BODY)
)


def room_for_callers(wanted: int, files: int) -> int:
    """How many connections callers may have: *wanted* (0: no wish), but no more than the limit of open *files* leaves.

    A quarter of the files is kept for journal, store and providers; of few files half, and never more than 4096.
    """
    if files == resource.RLIM_INFINITY:
        return wanted or _MOST
    left = files - min(max(files // 4, min(files // 2, 256)), 4096)
    return min(wanted, left) if wanted else left


@dataclass(slots=True, eq=False)
class _Connection:
    handler: web.RequestHandler
    transport: asyncio.Transport
    opened: float
    moved: float
    """When bytes of a request or an answer last moved, while some were to move."""
    seen: tuple[int, int] = (0, 0)
    """Bytes of the request's body heard, and of answers not yet taken, at the last look."""

    @property
    def idle(self) -> bool:
        """Whether nothing is being answered: a request may be on its way, and has not come whole."""
        waiter = self.handler._waiter  # noqa: SLF001 - aiohttp does not say it otherwise
        return not self.used if waiter is None else not waiter.done()

    @property
    def used(self) -> bool:
        """Whether a request has come over it."""
        return self.handler._request_count > 0  # noqa: SLF001

    @property
    def idle_since(self) -> float:
        """When it began to be idle, as far as order goes."""
        return self.handler._next_keepalive_close_time  # noqa: SLF001 - a constant after it

    def look(self, now: float) -> bool:
        """Whether bytes are to move: of a body that a handler waits for, or of an answer. Notes whether some did."""
        request = self.handler._current_request  # noqa: SLF001
        content = None if request is None else request.content
        hungry = content is not None and getattr(content, "_waiter", None) is not None
        unsent = self.transport.get_write_buffer_size()
        if not hungry and not unsent:
            self.moved = now
            return False
        seen = (content.total_bytes if content is not None and hungry else 0, unsent)
        if seen != self.seen:
            self.seen, self.moved = seen, now
        return True


@dataclass(slots=True)
class Connections:
    """All connections of callers, over every listener. *read_timeout* in seconds."""

    limit: int
    read_timeout: float
    _metrics: Metrics
    _open: dict[object, _Connection] = field(default_factory=dict)
    _full_until: float = 0.0
    _sweeping: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    @property
    def trouble(self) -> str:
        """In words, that there are about as many as may be; else nothing."""
        if len(self) <= self.may_wait:
            return ""
        return (
            f"{len(self)} of {self.limit} connections: the longest idle ones are closed for new ones; see who opens so "
            "many, or raise http.max_connections and the limit of open files"
        )

    @classmethod
    def of(cls, http: Http, metrics: Metrics) -> Connections:
        """Those that the settings and the limit of open files allow."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(room_for_callers(http.max_connections, files), http.read_timeout.total_seconds(), metrics)

    @property
    def may_wait(self) -> int:
        """How many of them may belong to callers who wait: the rest is for those who come and go."""
        return max(1, int(self.limit * _WAITING_PART))

    def watch(self, server: web.Server) -> None:
        """Count the connections of *server* from now on."""
        made, lost = server.connection_made, server.connection_lost
        loop = asyncio.get_running_loop()

        def count(handler: web.RequestHandler, transport: asyncio.Transport) -> None:
            made(handler, transport)
            if len(self._open) >= self.limit and not self._make_room():
                self._close("refused", _Connection(handler, transport, 0, 0), _FULL)
                return
            now = loop.time()
            self._open[handler] = _Connection(handler, transport, now, now)

        def forget(handler: web.RequestHandler, exc: BaseException | None = None) -> None:
            self._open.pop(handler, None)
            lost(handler, exc)

        server.connection_made, server.connection_lost = count, forget  # type: ignore[method-assign]

    def start(self) -> None:
        """Begin to look at all connections every few seconds, until `stop`."""
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(self.read_timeout / 4, self.start)
        self._sweep(loop.time())

    def stop(self) -> None:
        """Decision no more."""
        if self._sweeping is not None:
            self._sweeping.cancel()

    def _sweep(self, now: float) -> None:
        """Close where no first request came, and where bytes were to move and none did, for the read timeout."""
        late = now - self.read_timeout
        for connection in list(self._open.values()):
            if not connection.used and connection.opened < late:
                self._close("silent", connection)
            elif connection.look(now) and connection.moved < late:
                self._close("stalled", connection)

    def _make_room(self) -> bool:
        """Close the connections that have idled longest; False where none idles."""
        idle = [connection for connection in self._open.values() if connection.idle]
        for connection in heapq.nsmallest(max(1, len(idle) // 32), idle, key=lambda c: c.idle_since):
            self._close("room", connection)
        return bool(idle)

    def _close(self, reason: str, connection: _Connection, last_words: bytes = b"") -> None:
        self._metrics.connections_closed.labels(reason).inc()
        self._open.pop(connection.handler, None)
        if last_words:
            connection.transport.write(last_words)
        connection.handler.force_close()
        if reason == "stalled":
            connection.transport.abort()  # closing in order would wait for what nobody reads
        if reason in {"room", "refused"}:
            now = time.monotonic()
            if now >= self._full_until:
                log.warning("connections.full", limit=self.limit, open=len(self._open))
            self._full_until = now + _FULL_FOR
