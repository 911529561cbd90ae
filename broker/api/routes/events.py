"""One stream for the status page: it says that something changed, and the page asks again what it shows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from broker.api.cached_responses import COMMON_HEADERS
from broker.api.context import CONTEXT
from broker.api.request_ids import HEADER, request_id
from broker.api.requests import authenticate_for
from broker.api.routes.tokens import waiting
from broker.errors import InvalidRequest, NotAllowed, UnknownKey
from broker.token_answer import json_value

if TYPE_CHECKING:
    from broker.api.callers import Caller
    from broker.read.changes import Listener, Permitted

KEEP_ALIVE = 15.0
"""Seconds without a change after which a comment is sent, and after which the end of a session is noticed."""
PAUSE = 1.0
"""Seconds between two events: a page that asks more often shows nothing more."""
_STREAM = "text/event-stream"
_HEADERS = {
    **COMMON_HEADERS,
    hdrs.CONTENT_TYPE: f"{_STREAM}; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Accel-Buffering": "no",  # nginx is not to collect events
}


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_get("/v1/events", stream_events)


async def stream_events(request: web.Request) -> web.StreamResponse:
    """`GET /v1/events`: send an event `changed` when a grant has changed that the caller may view; no data.

    At most one event a second. The stream ends when the broker stops or the key is removed, and within 15 s after the
    session ended.
    """
    caller = authenticate_for(request, "view")
    if request.method == hdrs.METH_HEAD:
        return web.Response(headers=_HEADERS)
    if _STREAM not in request.headers.get(hdrs.ACCEPT, ""):
        raise InvalidRequest(f"this is a stream of events: send Accept: {_STREAM}")
    context = request.app[CONTEXT]
    with waiting(caller, KEEP_ALIVE), context.reader.listening(_permitted(caller)) as listener:
        response = web.StreamResponse(headers={**_HEADERS, HEADER: request_id(request)})
        response.force_close()  # a proxy must not take what follows for the next response
        await response.prepare(request)
        await _stream(request, response, listener)
    return response


def _permitted(caller: Caller) -> Permitted:
    if caller.administers_everything:
        return lambda _grant_id, _message: True
    if caller.providers is None:
        return lambda grant_id, _message: caller.may("view", grant_id)
    return lambda grant_id, message: caller.may("view", grant_id) and caller.may_use(_provider(message))


def _provider(message: bytes) -> str:
    """Return whose grant a message is about; empty where no broker published it."""
    try:
        return str(json_value(message)["provider"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""


async def _stream(request: web.Request, response: web.StreamResponse, listener: Listener) -> None:
    """Send events until the caller may see no more, or goes. `write` waits for a slow reader, so nothing piles up."""
    changes = request.app[CONTEXT].reader.changes
    await response.write(b"retry: 5000\n\n")
    while not changes.closed:
        changed = await listener.changed(KEEP_ALIVE)
        try:
            authenticate_for(request, "view", again=True)
        except (UnknownKey, NotAllowed):
            return
        if changes.closed:
            return
        await response.write(b"event: changed\ndata: \n\n" if changed else b": nothing changed\n\n")
        if changed:
            await asyncio.sleep(PAUSE)
