"""aiohttp's server as this broker needs it: subclasses that stand in aiohttp's own hooks.

This is the only file that uses private attributes of aiohttp; `tests/callers/test_aiohttp.py` names each of them. It
knows no route: `find_read` says which requests are frequent reads.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from aiohttp import hdrs, web
from aiohttp.http_exceptions import LineTooLong, PayloadEncodingError

from broker.api.cached_responses import COMMON_HEADERS
from broker.api.requests import BODY_LIMIT
from broker.api.responses import (
    UNREADABLE_BODY,
    error_response,
    finish,
    misdirected_response,
    response_to_error,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.streams import StreamReader

    from broker.api.connections import Connections
    from broker.api.context import Context

    ReadHandler = Callable[[Context, web.BaseRequest], Awaitable[web.StreamResponse]]
    FindRead = Callable[[str, str], ReadHandler | None]

SHUTDOWN = 1.0
"""Seconds that requests under way get when the listeners close; long polls end before that."""


class Protocol(web.RequestHandler):
    """One connection, counted among all: what `Connections` asks about it, and the response to what is no HTTP."""

    __slots__ = ("_counted_in",)

    def __init__(self, server: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._counted_in = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, and count the connection."""
        super().connection_made(transport)
        self._counted_in.add(self, cast("asyncio.Transport", transport))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count the connection no longer, and end."""
        self._counted_in.remove(self)
        super().connection_lost(exc)

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
        response = error_response(400, "invalid_request", _parse_error_text(exc))
        response.headers.update(COMMON_HEADERS)
        response.force_close()
        return response


def _parse_error_text(error: BaseException | None) -> str:
    match error:
        case LineTooLong():
            return "the request line or a header is over 8190 bytes: send a shorter one"
        case PayloadEncodingError():
            return UNREADABLE_BODY
        case _:
            return (
                "this is no HTTP request: a header is malformed (a line break or another control character in a key?), "
                "Host is missing, or the client speaks TLS where the broker listens for plain HTTP"
            )


class Server(web.Server):
    """The server of one application: makes a `Protocol` for each connection."""

    def __init__(self, request_handler: Any, request_factory: Any, connections: Connections, keepalive: float) -> None:
        """*keepalive*: seconds that a connection may idle."""
        super().__init__(request_handler, request_factory=request_factory, handler_cancellation=True)
        self._counted_in = connections
        self._protocol_options: dict[str, Any] = {
            "access_log": None,  # the query of a callback carries a code
            "auto_decompress": False,  # a megabyte of gzip can be a gigabyte: see `requests.require_unencoded`
            "keepalive_timeout": keepalive,
        }

    def __call__(self) -> Protocol:
        """Make the protocol of a new connection."""
        return Protocol(self, self._counted_in, **self._protocol_options)


class ReadRequest(web.BaseRequest):
    """A frequent read, without what only the application needs."""

    read_handler: ReadHandler


class DirectReads:
    """Answer frequent reads without the application's router and middlewares, which cost as much as the response.

    The handlers and the checks are the same; everything else goes to the application. Through the application a read
    takes 1.36 times the CPU (`python -m tests.benchmarks.tricks past-the-router`).
    """

    def __init__(self, context: Context, application: web.Server, find_read: FindRead) -> None:
        """*application* is the server that the application made for itself."""
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._find_read = find_read
        self._make_other, self._handle_other = application.request_factory, application.request_handler

    def make_request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        """Make a request; for aiohttp's `request_factory`."""
        # Only the application can answer "Expect: 100-continue" before the body comes.
        read = None if hdrs.EXPECT in message.headers else self._find_read(message.method, message.path)
        if read is None:
            return self._make_other(message, payload, protocol, writer, task)
        request = ReadRequest(message, payload, protocol, writer, task, self._loop, client_max_size=BODY_LIMIT)
        request.read_handler = read
        return request

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; for aiohttp's `request_handler`."""
        if not isinstance(request, ReadRequest):
            return await self._handle_other(request)
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

    def __init__(self, application: web.Application, context: Context, find_read: FindRead | None = None) -> None:
        """*find_read* is None where all requests go to the application."""
        super().__init__(application, shutdown_timeout=SHUTDOWN)
        self._context = context
        self._find_read = find_read

    async def _make_server(self) -> Server:
        made = await super()._make_server()
        handler, factory = made.request_handler, made.request_factory
        if self._find_read is not None:
            reads = DirectReads(self._context, made, self._find_read)
            handler, factory = reads.handle, reads.make_request
        keepalive = self._context.settings.http.keepalive_timeout.total_seconds()
        return Server(handler, factory, self._context.connections, keepalive)
