"""The door: what services ask all the time is answered here, everything else by the application behind it.

A read of the current token passes neither the application's router nor its middlewares, which cost as much as the
answer itself. It is the same handler, behind the same checks: only the way to it is shorter.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web

from broker.api.requests import BODY_LIMIT
from broker.api.responses import close_if_stopping, misdirected_response, response_to_error
from broker.api.routes import client_credentials
from broker.api.routes.authorization import authorize
from broker.api.routes.tokens import get_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.api.context import Context

    Read = Callable[[Context, web.BaseRequest], Awaitable[web.StreamResponse]]

_READ = re.compile(
    r"/v1/grants/([A-Za-z0-9][A-Za-z0-9._-]{0,127})/"
    r"(?:(token)(?:\?min_ttl=([0-9]{1,9}(?:\.[0-9]{1,3})?))?|authorization(?:[/?].*)?)"
)


@lru_cache(4096)
def _read_of(method: str, path: str) -> Read | None:
    """How to answer a read, as it stands in the request line; None for all that is spelled otherwise."""
    if method == "POST" and path == client_credentials.PATH:
        return client_credentials.grant_token
    match = _READ.fullmatch(path)
    if match is None or (match[2] and method != "GET"):
        return None
    if match[2]:
        return partial(get_token, grant_id=match[1], min_ttl=match[3])
    return partial(authorize, grant_id=match[1])


class ReadRequest(web.BaseRequest):
    """A read as the server took it in: without what only the application needs."""

    how: Read


class Front:
    """In front of an application's own handler, for aiohttp's low-level server."""

    def __init__(self, context: Context, server: web.Server) -> None:
        """Step in front of *server*'s handler."""
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._make_other, self._answer_other = server.request_factory, server.request_handler
        server.request_factory, server.request_handler = self._make, self._answer

    def _make(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        # Who waits for "100 Continue" before the body comes is answered by the application's own way alone.
        read = None if hdrs.EXPECT in message.headers else _read_of(message.method, message.path)
        if read is None:
            return self._make_other(message, payload, protocol, writer, task)
        request = ReadRequest(message, payload, protocol, writer, task, self._loop, client_max_size=BODY_LIMIT)
        request.how = read
        return request

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if not isinstance(request, ReadRequest):
            return await self._answer_other(request)
        if not self._context.hosts.is_served(request):
            return misdirected_response()
        self._context.read_activity.note()
        try:
            answer = await request.how(self._context, request)
        except Exception as error:  # noqa: BLE001 - every error has an answer
            answer = response_to_error(error, request.method, "read")
        return close_if_stopping(self._context, answer)
