"""One HTTP request, sent at most once, and what became of it.

Owns the client session for authorization servers: connections, TLS, time limits, content codings, and above all the
answer to "did anything reach the server?". Knows nothing of OAuth. Errors hold a code and a status; no URL, header
or body is ever part of them.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import time
import zlib
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from broker import __version__
from broker.model import NotSent, Unknown, slotted
from broker.providers.faults import MALFORMED, TOO_LATE, TooLateToSend, after_sending, not_sent, refused_by_proxy
from broker.providers.proxy import options
from broker.providers.raw_response import KeepingHandler, Kept, first_object, reread
from broker.providers.time_limit import TimeLimit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from multidict import CIMultiDictProxy

    from broker.providers.proxy import Hop, Proxy

MAX_BODY = 256 * 1024
"""Bytes of a response that are read, decoded ones included."""
MAX_HEADER_LINE = 256 * 1024
"""Bytes of one header line that are read: as many as curl reads of a head. A rotated token must not be lost because its
server sends long headers."""
MAX_HEADERS = 256
"""Header lines of one response that are read. Both bound what a hostile server can make the broker hold: 64 MiB."""
KEEPALIVE = 2.0
"""Seconds. Token endpoints close idle connections after two to six, which looks like "sent, no response"."""
DNS_TTL = 10
"""Seconds for which a name's addresses are cached."""
TLS_RENEWAL = 10.0
"""Seconds between two readings of the trusted certificates."""

_MAX_CODINGS = 4
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


@slotted
class Request:
    """A request to send. Everything but the method may hold secrets, so `repr` shows nothing else."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)


@slotted
class Reply:
    """A response. `headers` are as they arrived: names match in any case, and may occur more than once."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    """None: it cannot be read, `fault` says why."""
    fault: str | None = None
    """With a body: why it may not be complete."""
    sent_at: int | None = None
    """When the request was sent, by the clock that `Http.send` was given."""
    tls: ssl.SSLObject | None = field(default=None, repr=False, compare=False)
    """The TLS session with the server; None: plain http."""
    through: str | None = None
    """The proxy that it came through."""


@dataclass(slots=True)
class _Flight:
    """A request in flight."""

    deadline: float
    clock: Callable[[], int] | None = None
    sent: bool = False
    began: float = 0.0
    """When it was sent, monotonic."""
    hop: Hop | None = None
    tls: ssl.SSLObject | None = field(default=None, repr=False)
    response: aiohttp.ClientResponse | None = field(default=None, repr=False)
    """Status and headers, once they arrived."""
    body: bytearray = field(default_factory=bytearray, repr=False)
    oversized: bool = False
    kept: Kept | None = field(default=None, repr=False)

    def sent_at(self) -> int | None:
        """Return when it was sent, by the clock as it is now: a clock that was set meanwhile moves that time too."""
        return self.clock() - int((time.monotonic() - self.began) * 1000) if self.clock is not None else None


_current: ContextVar[_Flight] = ContextVar("_current")
_send = aiohttp.ClientRequest.send  # an aiohttp without it must fail at import, not where a response is judged


class _DeadlineRequest(aiohttp.ClientRequest):
    """Check the deadline after the connection is open and before the first byte is written.

    A process that was frozen meanwhile finds its lease gone: a request that has not begun must not begin then.
    (aiohttp's own tracing could report this too, at twenty times the cost.)
    """

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        flight = _current.get()
        if time.monotonic() >= flight.deadline:
            raise TooLateToSend
        if conn.transport is None or conn.transport.is_closing():
            # After the TLS handshake within a TLS proxy uvloop gives such a one.
            raise aiohttp.ClientConnectionResetError
        flight.sent = True
        flight.began = time.monotonic()
        flight.tls = conn.transport.get_extra_info("ssl_object")
        if isinstance(conn.protocol, KeepingHandler):
            flight.kept = conn.protocol.keep()
        return await _send(self, conn)


class Http:
    """Send requests; made by `open_http`, shared by all endpoints."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        tls: ssl.SSLContext,
        request_timeout: float,
        proxy: Proxy | None = None,
    ) -> None:
        self._session = session
        self._proxy = proxy
        self._tls = tls
        self._tls_read_at = time.monotonic()
        self._tls_suspect = False
        self.request_timeout = request_timeout
        """Seconds for one request where the caller gives no limit."""

    def through(self, proxy: Proxy | None) -> Http:
        """Return a client that sends through *proxy*, with the connections of this one; None: directly."""
        return Http(self._session, self._tls, self.request_timeout, proxy)

    async def send(
        self, request: Request, *, timeout: float, clock: Callable[[], int] | None = None
    ) -> Reply | NotSent | Unknown:
        """Send *request* once. Never raises except `CancelledError`.

        Args:
            request: what to send.
            timeout: in seconds, from connecting to the last byte of the response; stalls of this process after the
                sending do not count.
            clock: gives epoch ms, for the reply's `sent_at`.

        Returns:
            `NotSent` for a failure before the request's header was sent; `Unknown` after it, or a `Reply` with a
            fault once a status has arrived.
        """
        if timeout <= 0:
            return TOO_LATE
        flight = _Flight(deadline=time.monotonic() + timeout, clock=clock)
        fault: NotSent | Unknown | None = None
        token = _current.set(flight)
        limit = asyncio.timeout(None)
        watch = TimeLimit(limit, timeout)
        try:
            async with limit:
                await self._exchange(request, flight)
        except Exception as error:  # noqa: BLE001 - any error: all that counts is whether the request was sent
            fault = after_sending(error) if flight.sent else self._unconnected(error, flight.hop)
        finally:
            watch.cancel()
            _current.reset(token)
        if (refused := _reread(flight)) is not None:
            return refused
        if flight.response is None:
            return fault or Unknown("no_answer")
        status, headers = flight.response.status, flight.response.headers
        hop, tls = flight.hop, flight.tls
        if hop is not None and (by_proxy := refused_by_proxy(status, hop)):
            return by_proxy
        through = None if hop is None else hop.name
        sent_at = flight.sent_at()
        if flight.oversized:
            return Reply(status, headers, None, "oversized", sent_at=sent_at, tls=tls, through=through)
        body, flaw = decode(bytes(flight.body), _codings(headers), cut=fault is not None)
        if flaw == "undecodable" and (plain := first_object(bytes(flight.body))) is not None:
            body, flaw = plain, None  # it was never encoded, whatever its header says
        cut = fault.code if fault is not None else None
        return Reply(status, headers, body, flaw or cut, sent_at=sent_at, tls=tls, through=through)

    async def _exchange(self, request: Request, flight: _Flight) -> None:
        if self._proxy is not None:
            flight.hop = await self._proxy.hop(request.url)
        response = await self._session.request(
            request.method,
            _verbatim(request.url) if "?" in request.url else _cached_url(request.url),
            data=request.body,
            ssl=await self._trust(),
            allow_redirects=False,
            **options(flight.hop, request.headers),
        )
        flight.response = response
        try:
            while chunk := await response.content.readany():
                flight.body += chunk
                if len(flight.body) > MAX_BODY:
                    flight.oversized = True
                    return
        finally:
            # After a complete response this does nothing: the connection is back in the pool already.
            response.close()

    async def _trust(self) -> ssl.SSLContext:
        """Return the TLS context, made anew after a certificate failure so that a renewed trust bundle takes effect."""
        if self._tls_suspect and time.monotonic() - self._tls_read_at >= TLS_RENEWAL:
            self._tls_suspect = False
            self._tls_read_at = time.monotonic()
            self._tls = await _tls_context()
        return self._tls

    def _unconnected(self, error: Exception, hop: Hop | None) -> NotSent:
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            self._tls_suspect = True
        return not_sent(error, hop)


def _reread(flight: _Flight) -> Reply | Unknown | None:
    """Return what a response that aiohttp's parser refused holds all the same; None: it refused none."""
    kept = flight.kept
    if kept is None or kept.raw is None:
        return None
    raw, kept.raw = kept.raw, None  # a pooled connection keeps no tokens
    if not kept.refused:
        return None
    found = reread(bytes(raw))
    if found is None:
        return MALFORMED if flight.response is None else None
    through = None if flight.hop is None else flight.hop.name
    return Reply(*found, sent_at=flight.sent_at(), tls=flight.tls, through=through)


def _verbatim(url: str) -> URL:
    """Parse *url* without requoting anything but a host name in its own script: a requoted token is another one."""
    return URL(url, encoded=url.isascii())


_cached_url = functools.lru_cache(maxsize=64)(_verbatim)
"""For URLs without a query: a query may hold tokens."""


@asynccontextmanager
async def open_http(request_timeout: float) -> AsyncIterator[Http]:
    """Open the client session that all endpoints share, closed at the end. *request_timeout* is in seconds."""
    tls = await _tls_context()
    connector = aiohttp.TCPConnector(
        limit=0,  # the lanes of `refresh` bound the requests in flight
        keepalive_timeout=KEEPALIVE,
        ttl_dns_cache=DNS_TTL,
    )
    # aiohttp has no public option for it.
    connector._factory = functools.partial(KeepingHandler, loop=asyncio.get_running_loop())  # type: ignore[assignment]  # noqa: SLF001
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            # Web application firewalls reject an empty or a changing one.
            "User-Agent": f"token-broker/{__version__}",
        },
        trust_env=False,
        auto_decompress=False,
        raise_for_status=False,
        # `asyncio.timeout` bounds each request: aiohttp rounds its own up to whole seconds, past the end of a lease.
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        request_class=_DeadlineRequest,
        max_line_size=MAX_HEADER_LINE,
        max_field_size=MAX_HEADER_LINE,
        max_headers=MAX_HEADERS,
    ) as session:
        # aiohttp repeats DELETE and GET on a connection that was closed meanwhile; nothing here is sent twice.
        session._retry_connection = False  # noqa: SLF001 - aiohttp has no public option for it
        yield Http(session, tls, request_timeout)


async def _tls_context() -> ssl.SSLContext:
    # In a thread: it reads the bundle of trusted certificates (`SSL_CERT_FILE`) from disk.
    context = await asyncio.to_thread(ssl.create_default_context)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _codings(headers: CIMultiDictProxy[str]) -> list[str]:
    """Return the codings in the order in which they were applied (RFC 9110 §8.4, RFC 9112 §7)."""
    if "content-encoding" not in headers and "transfer-encoding" not in headers:
        return []
    listed = ",".join([*headers.getall("content-encoding", ()), *headers.getall("transfer-encoding", ())])
    codings = [coding.strip().lower() for coding in listed.split(",")]
    return [coding for coding in codings if coding not in {"", "identity", "chunked"}]


def decode(body: bytes, codings: list[str], *, cut: bool = False) -> tuple[bytes | None, str | None]:
    """Remove *codings* from *body*. None is requested, but a refresh token in gzip is a refresh token.

    Args:
        body: as it arrived.
        codings: in the order in which they were applied.
        cut: the body ended early; an unfinished stream is then no further fault.

    Returns:
        The decoded body, and its fault: `undecodable` or `oversized` (no body then), or `truncated`.
    """
    if not body:
        return body, None
    if len(codings) > _MAX_CODINGS:
        return None, "undecodable"
    fault = None
    for coding in reversed(codings):
        if coding not in _WINDOW_BITS:
            return None, "undecodable"
        bits = _WINDOW_BITS[coding]
        if coding == "deflate" and not _has_zlib_head(body):
            bits = -15  # some servers send the raw deflate stream
        stream = zlib.decompressobj(bits)
        try:
            body = stream.decompress(body, MAX_BODY + 1)
        except zlib.error:
            return None, "undecodable"
        if len(body) > MAX_BODY:
            return None, "oversized"
        if not stream.eof and not cut:
            fault = "truncated"
    return body, fault


def _has_zlib_head(body: bytes) -> bool:
    """Return whether *body* begins as RFC 1950 §2.2 says: method 8, the first two bytes a multiple of 31."""
    return len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
