"""aiohttp's server as this broker needs it: subclasses that stand in aiohttp's own hooks.

This is the only file that uses private attributes of aiohttp; `tests/callers/test_aiohttp.py` names each of them.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from aiohttp import EMPTY_PAYLOAD, hdrs, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong, PayloadEncodingError

from broker.api.browser import for_reader
from broker.api.cached_responses import COMMON_HEADERS
from broker.api.dispatcher import Dispatcher
from broker.api.responses import (
    UNREADABLE_BODY,
    error_response,
)
from broker.api.targets import public_path, served_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp.streams import StreamReader

    from broker.api.connections import Connections
    from broker.api.context import Context
    from broker.api.dispatcher import FindRead

SHUTDOWN = 1.0
"""Seconds that requests under way get when the listeners close; long polls end before that."""
LINE_LIMIT = 64 * 1024
"""Bytes of a request line or a header line: as long as the recipes in deploy/proxies let through."""
HEAD_LIMIT = 4 * LINE_LIMIT
"""Bytes of all these lines of one request."""
ARRIVED = 64 * 1024
"""Bytes that the kernel keeps of what a client sends; Linux keeps twice as many. What has arrived is parsed at once,
while everybody waits."""
BUFFERED = 4 * 1024
"""Bytes of a body after twice which aiohttp parses no further until they are read; `requests` raises that. After a
sixteenth as many chunks it stops as well: a chunk of one byte takes as long as hundreds of bytes in one.
"""
LINGER = 1.0
"""Seconds for which a connection stays open whose request's body is not read on, so that its client reads the
response; a reset would take that from it."""
UNWANTED = 64 * 1024
"""Bytes of such a body that are taken from the socket in that time, and dropped."""
MOST_PARTS = 256
"""Parts of what arrived together that are parsed one by one after an `Upgrade`."""
_END_OF_HEAD = b"\r\n\r\n"


class Protocol(web.RequestHandler):
    """One connection, counted among all: what `Connections` asks about it, and the response to what is no HTTP."""

    __slots__ = (
        "_address",
        "_beginning",
        "_body_left",
        "_counted_in",
        "_head_size",
        "_is_unreadable",
        "_last_body",
        "_last_bytes",
        "_prefix",
        "_unwanted",
        "_upgrades",
        "body_timeout",
        "by_proxy",
        "head_began",
        "is_known",
        "is_public",
        "peer",
    )

    def __init__(self, server: web.Server, side: Side, **options: Any) -> None:
        """*side* is what the listener of this connection is for."""
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._counted_in, self.is_public, self.body_timeout = side.connections, side.is_public, side.body_timeout
        self.peer = self._address = ""
        self.by_proxy = False
        self.is_known = False
        """Whether a request over it showed a valid key."""
        self.head_began = 0.0
        """When the head of a request began to arrive that has not come whole; 0: none did."""
        self._unwanted: int | None = None
        self._last_body: StreamReader = EMPTY_PAYLOAD
        self._head_size, self._beginning = 0, b""
        self._upgrades, self._last_bytes, self._body_left = False, b"", 0
        self._prefix, self._is_unreadable = side.prefix, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, and count the connection."""
        super().connection_made(transport)
        address = transport.get_extra_info("peername")
        self.peer = self._address = address[0] if isinstance(address, tuple) else ""
        if self.peer:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ARRIVED)
        self.by_proxy = self._counted_in.peers.is_proxy(self.peer)
        self._counted_in.add(self, cast("asyncio.Transport", transport))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count the connection no longer, and end."""
        self._counted_in.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse *data*; once an `Upgrade` was seen, in parts that end where a request may end.

        After a request with an `Upgrade` that aiohttp does not know, such as h2c, its parser drops what follows in the
        same part: a client that sends its next request at once would get no response to it.
        """
        if self._unwanted is not None:
            self._pass_over(data)
            return
        known = self._last_bytes + data
        self._upgrades = self._upgrades or b"upgrade" in known.lower()
        self._last_bytes = known[-8:]
        if not self._upgrades or not data:
            self._parse(data)
            return
        before, parts = len(known) - len(data), 0
        while before < len(known) and parts < MOST_PARTS:
            end, parts = self._end_of_part(known, before), parts + 1
            self._parse(known[before:end])
            before = end
        if before == len(known):
            return
        if self.is_idle:  # no client asks so much at once, and each part costs a call of the parser
            self.force_close()
        else:
            self.leave_rest()
            self.close()

    def serve(self, lines: Sequence[str]) -> bool:
        """Count this connection of a proxy as one of the client that the *lines* name; return whether it may be."""
        self.peer = self._counted_in.peers.client(self._address, lines)
        self.is_known = False
        return self._counted_in.serve(self, self.peer)

    def leave_rest(self) -> None:
        """Read no more of the current request's body than lets its client read the response first."""
        self._unwanted = UNWANTED

    def _pass_over(self, data: bytes) -> None:
        self._unwanted = (self._unwanted or 0) - len(data)
        if self._unwanted <= 0 and self.transport is not None:
            with suppress(RuntimeError):  # it is closing
                self.transport.pause_reading()

    def _end_of_part(self, data: bytes, start: int) -> int:
        """Return where a request in *data* may end that goes on at *start*."""
        if self._body_left:
            end = min(start + self._body_left, len(data))
            self._body_left -= end - start
            return end
        found = data.find(_END_OF_HEAD, max(0, start - len(_END_OF_HEAD) + 1))
        return len(data) if found < 0 else found + len(_END_OF_HEAD)

    def _parse(self, part: bytes) -> None:
        """Parse *part*, and close the connection of a client whose head never ends: aiohttp limits its lines only."""
        if self._is_unreadable:
            return  # no later request can be found; the response to this one is under way
        count, in_head = self._request_count, self._last_body.is_eof()
        if in_head and not self._head_size:
            self._beginning = part[:256]
        super().data_received(part)
        if self._request_count > count:
            self._head_size, self.head_began = 0, 0.0
            body = self._last_body
            message, self._last_body = self._messages[-1]
            if not isinstance(message, RawRequestMessage):
                self._is_unreadable = True
                if not body.is_eof():
                    body.set_exception(web.RequestPayloadError("its end cannot be parsed"))
            elif message.upgrade:  # chunks end as a head does
                self._body_left = int(message.headers.get(hdrs.CONTENT_LENGTH, "0"))
        elif in_head and part:
            if not self._head_size:
                self.head_began = asyncio.get_running_loop().time()
            self._head_size += len(part)
            if self._head_size > HEAD_LIMIT:
                self._refuse_head()

    def _refuse_head(self) -> None:
        if self.transport is not None and self.is_idle:
            response = self._unreadable(431, f"the header lines are over {HEAD_LIMIT // 1024} KiB: send less")
            lines = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
            body = cast("bytes", response.body)
            head = f"HTTP/1.1 431 {response.reason}\r\n{lines}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            self.transport.write(head.encode() + body)
            self._is_unreadable = True
            self.leave_rest()
            asyncio.get_running_loop().call_later(LINGER, self.force_close)
        else:
            self.force_close()

    def _unreadable(self, status: int, text: str) -> web.Response:
        """Make the response to a request whose head is not known; it is a page where its first bytes ask for one."""
        target = self._beginning.split(b" ", 2)[1:2] or [b""]
        path = served_target(target[0].decode("latin-1"), self._prefix)
        return for_reader(error_response(status, "invalid_request", text), path)

    @property
    def is_used(self) -> bool:
        """Whether a request has come over it."""
        return self._request_count > 0

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered. One may be arriving, if it has not come whole."""
        return not self.is_used if self._waiter is None else not self._waiter.done()

    @property
    def waits_for_client(self) -> bool:
        """Whether nothing is worked on: a request, the rest of its body, or the reading of a response has to come."""
        return self._current_request is None or not self._current_request.content.is_eof()

    @property
    def idle_since(self) -> float:
        """A number that orders idle connections by when they began to idle: that time and a constant."""
        return self._next_keepalive_close_time

    @property
    def awaited_body(self) -> StreamReader | None:
        """The body of the current request, while its handler waits for more of it."""
        body = None if self._current_request is None else self._current_request.content
        return body if getattr(body, "_waiter", None) is not None else None  # an empty body has no waiter

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer a request that cannot be parsed without repeating it, and do not log it.

        aiohttp's own text shows the faulty line, which may hold a key: whoever sent it would log the response.
        """
        if status != HTTPStatus.BAD_REQUEST:
            return super().handle_error(request, status, exc, message)
        if request.writer.output_size > 0:
            raise ConnectionError("a response has begun: the connection is closed")
        response = self._unreadable(status, _parse_error_text(exc))
        response.headers.update(COMMON_HEADERS)
        response.force_close()
        return response


def _parse_error_text(error: BaseException | None) -> str:
    match error:
        case LineTooLong():
            return "the request line or a header is over 64 KiB: send a shorter one"
        case PayloadEncodingError():
            return UNREADABLE_BODY
        case _:
            return (
                "this is no HTTP request: a header is malformed (a line break or another control character in a key?), "
                "Host is missing, or the client speaks TLS where the broker listens for plain HTTP"
            )


@dataclass(frozen=True, slots=True)
class Side:
    """What the connections of one listener have in common."""

    connections: Connections
    prefix: str
    """The path of `public_url`."""
    body_timeout: float
    """Seconds for each 64 KiB of a body."""
    is_public: bool
    """Whether it faces the internet."""


class Server(web.Server):
    """The server of one application: makes a `Protocol` for each connection."""

    def __init__(self, request_handler: Any, request_factory: Any, context: Context, *, is_public: bool) -> None:
        super().__init__(request_handler, request_factory=request_factory, handler_cancellation=True)
        http = context.settings.http
        self._side = Side(context.connections, public_path(http), http.body_timeout.total_seconds(), is_public)
        self._protocol_options: dict[str, Any] = {
            "access_log": None,  # the query of a callback carries a code
            "auto_decompress": False,  # a megabyte of gzip can be a gigabyte: see `requests.require_unencoded`
            "keepalive_timeout": context.settings.http.keepalive_timeout.total_seconds(),
            "max_line_size": LINE_LIMIT,
            "max_field_size": LINE_LIMIT,
            "lingering_time": LINGER,
            "read_bufsize": BUFFERED,
        }

    def __call__(self) -> Protocol:
        """Make the protocol of a new connection."""
        return Protocol(self, self._side, **self._protocol_options)


class Runner(web.AppRunner):
    """aiohttp's runner of an application, whose server is a `Server`."""

    def __init__(
        self, application: web.Application, context: Context, find_read: FindRead, *, is_public: bool = False
    ) -> None:
        """*find_read* finds no read where all requests go to the application, as those on the public side do."""
        super().__init__(application, shutdown_timeout=SHUTDOWN)
        self._context, self._is_public = context, is_public
        self._find_read = find_read

    async def _make_server(self) -> Server:
        dispatcher = Dispatcher(self._context, await super()._make_server(), self._find_read)
        return Server(dispatcher.handle, dispatcher.make_request, self._context, is_public=self._is_public)
