"""Find what a request is for, before the application's router: its path, whether it awaits a 100, and its handler.

It knows no route: `find_read` says which requests are frequent reads.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from broker.api.browser import for_reader
from broker.api.cached_responses import RawResponse
from broker.api.request_ids import HEADER, given_id, request_id
from broker.api.requests import AWAITS_CONTINUE, BODY_LIMIT, connection_of
from broker.api.responses import error_response, finish, misdirected_response, response_to_error
from broker.api.targets import public_path, served_target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.api.context import Context
    from broker.api.server import Protocol

    ReadHandler = Callable[[Context, web.BaseRequest], Awaitable[web.StreamResponse]]
    FindRead = Callable[[str, str], ReadHandler | None]
    Made = tuple[Any, Any, Any, Any]
    """What aiohttp makes a request of, beside its message: payload, protocol, writer and task."""

MOST_SEGMENTS = 64
"""Segments of a path that is routed: the router looks for each of them, and copies the path each time."""
CACHED_TARGET = 512
"""Characters of a request target that may be in a cache."""
TOO_MANY = (503, "too_many_connections", "this address has too many connections: try again in a moment")
TOO_DEEP = (404, "not_found", f"no route has more than {MOST_SEGMENTS} segments: see /openapi.json")
UNMET = (417, "invalid_request", "this Expect is not served: send 100-continue or none")
SERVED_VERSIONS = (HttpVersion11, HttpVersion10)
"""What aiohttp's parser knows beside them, 0.9 and 2.0, it would answer by lines that these versions do not have."""
UNKNOWN_VERSION = (505, "invalid_request", "this version of HTTP is not served: send HTTP/1.1")
_REFUSAL = web.RequestKey("refusal", tuple)


class ReadRequest(web.BaseRequest):
    """A frequent read, without what only the application needs."""

    read_handler: ReadHandler
    read_id = ""
    """Its id; empty until somebody asks for it (`request_ids`)."""


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
        if message.version not in SERVED_VERSIONS:
            message = message._replace(version=HttpVersion10)  # the response names it: a client may know it, no other
            return self._make_refused(message, UNKNOWN_VERSION, (payload, protocol, writer, task))
        if len(message.path) > CACHED_TARGET:
            return self._make_long(message, (payload, protocol, writer, task))
        message = self._at_route(message, served_target(message.path, self._prefix))
        if protocol.by_proxy and not self._may_serve(message, protocol):
            return self._make_refused(message, TOO_MANY, (payload, protocol, writer, task))
        if hdrs.EXPECT in message.headers:
            return self._make_expecting(message, (payload, protocol, writer, task))
        read = self._find_read(message.method, message.path)
        if read is None:
            return self._make_other(message, payload, protocol, writer, task)
        return self._make_read(read, message, (payload, protocol, writer, task))

    def _make_long(self, message: Any, connection: Made) -> web.BaseRequest:
        """Make a request whose target is long, past the caches: full of such targets they would take 256 MiB."""
        message = self._at_route(message, served_target.__wrapped__(message.path, self._prefix))
        if connection[1].by_proxy and not self._may_serve(message, connection[1]):
            return self._make_refused(message, TOO_MANY, connection)
        if hdrs.EXPECT in message.headers:
            return self._make_expecting(message, connection)
        find_read = getattr(self._find_read, "__wrapped__", self._find_read)
        read = find_read(message.method, message.path)
        if read is not None:
            return self._make_read(read, message, connection)
        if message.path.partition("?")[0].count("/") > MOST_SEGMENTS:
            return self._make_refused(message, TOO_DEEP, connection)
        return self._make_other(message, *connection)

    def _at_route(self, message: Any, target: str) -> Any:
        if target == message.path:
            return message
        path, _, query = target.partition("?")
        url = URL.build(path=path, query_string=query.partition("#")[0], encoded=True)
        return message._replace(path=target, url=url)

    def _make_read(self, read: ReadHandler, message: Any, connection: Made) -> ReadRequest:
        payload, protocol, writer, task = connection
        request = ReadRequest(message, payload, protocol, writer, task, self._loop, client_max_size=BODY_LIMIT)
        request.read_handler = read
        return request

    def _make_refused(self, message: Any, refusal: tuple[int, str, str], connection: Made) -> web.BaseRequest:
        request = self._make_other(message, *connection)
        request[_REFUSAL] = refusal
        return request

    def _may_serve(self, message: Any, protocol: Protocol) -> bool:
        """Find out whose request a proxy passes on; return whether this client may have one more connection."""
        lines = message.headers.getall(self._context.connections.peers.header, ()) if message.headers else ()
        return protocol.serve(lines)

    def _make_expecting(self, message: Any, connection: Made) -> web.BaseRequest:
        """Make a request with `Expect`: aiohttp would send 100 (Continue) before anything is checked."""
        expected = {value.strip().lower() for line in message.headers.getall(hdrs.EXPECT) for value in line.split(",")}
        headers = CIMultiDict(message.headers)
        del headers[hdrs.EXPECT]
        request = self._make_other(message._replace(headers=CIMultiDictProxy(headers)), *connection)
        if message.version >= HttpVersion11:  # older clients do not know it (RFC 9110 section 10.1.1)
            request[AWAITS_CONTINUE] = not connection[0].is_eof()
            if expected - {"100-continue"}:
                request[_REFUSAL] = UNMET
        if message.path.partition("?")[0].count("/") > MOST_SEGMENTS:
            request[_REFUSAL] = TOO_DEEP
        return request

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; for aiohttp's `request_handler`."""
        if isinstance(request, ReadRequest):
            response = await self._read(request)
            if not isinstance(response, RawResponse) and (known := given_id(request)) is not None:
                response.headers[HEADER] = known  # a raw one adds it itself
            return response
        response = await self._respond(request)
        if not response.prepared:
            response.headers[HEADER] = request_id(request)
        return response

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        refusal = request.get(_REFUSAL)
        if refusal is not None:
            response: web.StreamResponse = self._refuse(request, *refusal)
        elif self._prefix and request.path == self._prefix and request.method in {"GET", "HEAD"}:
            # The status page's links are relative to its folder.
            response = finish(self._context, web.Response(status=308, headers={"Location": f"{self._prefix}/"}))
        else:
            response = await self._handle_other(request)
        # After a 100 (Continue) that was not sent, the client may or may not send the body after all, so where the next
        # request begins is unknown.
        closing = request.get(AWAITS_CONTINUE) or _leaves_rest(request)
        return finish(self._context, response, closing=True) if closing else response

    def _refuse(self, request: web.BaseRequest, status: int, code: str, text: str) -> web.StreamResponse:
        response = error_response(status, code, text, 1 if status == HTTPStatus.SERVICE_UNAVAILABLE else None)
        response.force_close()
        return finish(self._context, for_reader(response, request.path, request.headers.get(hdrs.ACCEPT, "")))

    async def _read(self, request: ReadRequest) -> web.StreamResponse:
        if not self._context.hosts.is_served(request):
            self._context.denials.note(request, "wrong_host")
            return finish(self._context, misdirected_response())
        self._context.read_activity.note()
        try:
            response = await request.read_handler(self._context, request)
        except Exception as error:  # noqa: BLE001 - every error has a response
            self._context.denials.note_error(request, error)
            response = response_to_error(error, request.method, "read")
        return finish(self._context, response, closing=not request.content.is_eof() and _leaves_rest(request))


def _leaves_rest(request: web.BaseRequest) -> bool:
    """Return whether the rest of a request's body is not read on, since the response does not depend on it.

    A body that is known to be short is, as far as it follows at once: the next request comes after it.
    """
    content = request.content
    if content.is_eof() or (request.content_length or BODY_LIMIT + 1) <= BODY_LIMIT:
        return False
    connection_of(request).leave_rest()
    return True
