"""The door: what services ask all the time is answered here, everything else by the application behind it.

A read of the current token passes neither the application's router nor its middlewares, which cost as much as the
answer itself. It is the same handler, behind the same checks: only the way to it is shorter.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from aiohttp import web

from broker.api.app import answer_to, misdirected
from broker.api.tokens import get_token
from broker.errors import BrokerError

if TYPE_CHECKING:
    from broker.api.app import Api

_READ = re.compile(r"/v1/grants/([A-Za-z0-9][A-Za-z0-9._-]{0,127})/token(?:\?min_ttl=([0-9]{1,9}(?:\.[0-9]{1,3})?))?")


@lru_cache(4096)
def _read_of(path: str) -> tuple[str, str | None] | None:
    """Grant id and min_ttl of a read, as it stands in the request line; None for all that is spelled otherwise."""
    match = _READ.fullmatch(path)
    return (match[1], match[2]) if match else None


class Front:
    """In front of an application's own handler, for aiohttp's low-level server."""

    def __init__(self, api: Api, server: web.Server) -> None:
        """Step in front of *server*'s handler."""
        self._api = api
        self._loop = asyncio.get_running_loop()
        self._make_other, self._answer_other = server.request_factory, server.request_handler
        server.request_factory, server.request_handler = self._make, self._answer

    def _make(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        """A request as the server read it: without what only the application needs, where it will not see it."""
        if message.method == "GET" and _read_of(message.path):
            return web.BaseRequest(message, payload, protocol, writer, task, self._loop)
        return self._make_other(message, payload, protocol, writer, task)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        read = _read_of(request.raw_path) if type(request) is web.BaseRequest else None
        if read is None:
            return await self._answer_other(request)
        if not self._api.hosts.serve(request):
            return misdirected()
        try:
            return await get_token(self._api, request, *read)
        except BrokerError as error:
            return answer_to(error)
