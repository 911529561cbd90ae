"""aiohttp's server as this broker needs it: subclasses that stand in aiohttp's own hooks.

This is the only file that uses private attributes of aiohttp; `tests/callers/test_aiohttp.py` names each of them. It
knows no route: `find_read` says which requests are frequent reads.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from aiohttp import EMPTY_PAYLOAD, HttpVersion11, hdrs, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong, PayloadEncodingError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from broker.api.browser import for_reader
from broker.api.cached_responses import COMMON_HEADERS
from broker.api.requests import AWAITS_CONTINUE, BODY_LIMIT
from broker.api.responses import (
    UNREADABLE_BODY,
    error_response,
    finish,
    misdirected_response,
    response_to_error,
)
from broker.api.targets import public_path, served_target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.streams import StreamReader

    from broker.api.connections import Connections
    from broker.api.context import Context

    ReadHandler = Callable[[Context, web.BaseRequest], Awaitable[web.StreamResponse]]
    FindRead = Callable[[str, str], ReadHandler | None]

SHUTDOWN = 1.0
"""Seconds that requests under way get when the listeners close; long polls end before that."""
LINE_LIMIT = 64 * 1024
"""Bytes of a request line or a header line: as long as the recipes in deploy/proxies let through."""
HEAD_LIMIT = 4 * LINE_LIMIT
"""Bytes of all these lines of one request."""
_REFUSED = web.RequestKey("expectation_refused", bool)
_END_OF_HEAD = b"\r\n\r\n"


class Protocol(web.RequestHandler):
    """One connection, counted among all: what `Connections` asks about it, and the response to what is no HTTP."""

    __slots__ = (
        "_beginning",
        "_body_left",
        "_counted_in",
        "_head_size",
        "_is_unreadable",
        "_last_body",
        "_last_bytes",
        "_prefix",
        "_upgrades",
    )

    def __init__(self, server: web.Server, connections: Connections, prefix: str, **options: Any) -> None:
        """*prefix*: the path of `public_url`."""
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._counted_in = connections
        self._last_body: StreamReader = EMPTY_PAYLOAD
        self._head_size, self._beginning = 0, b""
        self._upgrades, self._last_bytes, self._body_left = False, b"", 0
        self._prefix, self._is_unreadable = prefix, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, and count the connection."""
        super().connection_made(transport)
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
        known = self._last_bytes + data
        self._upgrades = self._upgrades or b"upgrade" in known.lower()
        self._last_bytes = known[-8:]
        if not self._upgrades or not data:
            self._parse(data)
            return
        before = len(known) - len(data)
        while before < len(known):
            end = self._end_of_part(known, before)
            self._parse(known[before:end])
            before = end

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
            self._head_size = 0
            message, self._last_body = self._messages[-1]
            if not isinstance(message, RawRequestMessage):
                self._is_unreadable = True
            elif message.upgrade:  # chunks end as a head does
                self._body_left = int(message.headers.get(hdrs.CONTENT_LENGTH, "0"))
        elif in_head:
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


class Server(web.Server):
    """The server of one application: makes a `Protocol` for each connection."""

    def __init__(self, request_handler: Any, request_factory: Any, context: Context) -> None:
        super().__init__(request_handler, request_factory=request_factory, handler_cancellation=True)
        self._counted_in = context.connections
        self._prefix = public_path(context.settings.http)
        self._protocol_options: dict[str, Any] = {
            "access_log": None,  # the query of a callback carries a code
            "auto_decompress": False,  # a megabyte of gzip can be a gigabyte: see `requests.require_unencoded`
            "keepalive_timeout": context.settings.http.keepalive_timeout.total_seconds(),
            "max_line_size": LINE_LIMIT,
            "max_field_size": LINE_LIMIT,
        }

    def __call__(self) -> Protocol:
        """Make the protocol of a new connection."""
        return Protocol(self, self._counted_in, self._prefix, **self._protocol_options)


class ReadRequest(web.BaseRequest):
    """A frequent read, without what only the application needs."""

    read_handler: ReadHandler


class Dispatcher:
    """Find what a request is for: its path, whether it awaits a 100, and its handler.

    Frequent reads are answered without the application's router and middlewares, which cost as much as the response.
    The handlers and the checks are the same; everything else goes to the application. Through the application a read
    takes 1.36 times the CPU (`python -m tests.benchmarks.tricks past-the-router`).
    """

    def __init__(self, context: Context, application: web.Server, find_read: FindRead) -> None:
        """*application* is the server that the application made for itself."""
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._find_read = find_read
        self._prefix = public_path(context.settings.http)
        self._make_other, self._handle_other = application.request_factory, application.request_handler

    def make_request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        """Make a request; for aiohttp's `request_factory`."""
        target = served_target(message.path, self._prefix)
        if target != message.path:
            path, _, query = target.partition("?")
            url = URL.build(path=path, query_string=query.partition("#")[0], encoded=True)
            message = message._replace(path=target, url=url)
        if hdrs.EXPECT in message.headers:
            return self._make_expecting(message, payload, protocol, writer, task)
        read = self._find_read(message.method, message.path)
        if read is None:
            return self._make_other(message, payload, protocol, writer, task)
        request = ReadRequest(message, payload, protocol, writer, task, self._loop, client_max_size=BODY_LIMIT)
        request.read_handler = read
        return request

    def _make_expecting(self, message: Any, *connection: Any) -> web.BaseRequest:
        """Make a request with `Expect`: aiohttp would send 100 (Continue) before anything is checked."""
        expected = {value.strip().lower() for line in message.headers.getall(hdrs.EXPECT) for value in line.split(",")}
        headers = CIMultiDict(message.headers)
        del headers[hdrs.EXPECT]
        request = self._make_other(message._replace(headers=CIMultiDictProxy(headers)), *connection)
        if message.version >= HttpVersion11:  # older clients do not know it (RFC 9110 section 10.1.1)
            request[AWAITS_CONTINUE] = not connection[0].is_eof()
            request[_REFUSED] = bool(expected - {"100-continue"})
        return request

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; for aiohttp's `request_handler`."""
        if isinstance(request, ReadRequest):
            return await self._read(request)
        if request.get(_REFUSED):
            text = "this Expect is not served: send 100-continue or none"
            response: web.StreamResponse = self._refuse(request, error_response(417, "invalid_request", text))
        elif self._prefix and request.path == self._prefix and request.method in {"GET", "HEAD"}:
            # The status page's links are relative to its folder.
            response = finish(self._context, web.Response(status=308, headers={"Location": f"{self._prefix}/"}))
        else:
            response = await self._handle_other(request)
        if request.get(AWAITS_CONTINUE):
            # The client may or may not send the body after all, so where the next request begins is unknown.
            return finish(self._context, response, closing=True)
        return response

    def _refuse(self, request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
        return finish(self._context, for_reader(response, request.path, request.headers.get(hdrs.ACCEPT, "")))

    async def _read(self, request: ReadRequest) -> web.StreamResponse:
        if not self._context.hosts.is_served(request):
            return finish(self._context, misdirected_response())
        self._context.read_activity.note()
        try:
            response = await request.read_handler(self._context, request)
        except Exception as error:  # noqa: BLE001 - every error has a response
            response = response_to_error(error, request.method, "read")
        return finish(self._context, response)


class Runner(web.AppRunner):
    """aiohttp's runner of an application, whose server is a `Server`."""

    def __init__(self, application: web.Application, context: Context, find_read: FindRead) -> None:
        """*find_read* finds no read where all requests go to the application."""
        super().__init__(application, shutdown_timeout=SHUTDOWN)
        self._context = context
        self._find_read = find_read

    async def _make_server(self) -> Server:
        dispatcher = Dispatcher(self._context, await super()._make_server(), self._find_read)
        return Server(dispatcher.handle, dispatcher.make_request, self._context)
