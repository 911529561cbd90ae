"""The two applications and their middlewares, and the handlers of frequent reads. Makes no response of its own."""

from __future__ import annotations

import re
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from broker.api.browser import for_reader
from broker.api.context import CONTEXT
from broker.api.requests import BODY_LIMIT
from broker.api.responses import finish, misdirected_response, response_to_error
from broker.api.routes import (
    attempts,
    authorization,
    client_credentials,
    day,
    events,
    explanation,
    grants,
    health,
    import_one,
    imports,
    login,
    metrics,
    openapi,
    providers,
    reload,
    reseal,
    status_page,
    tokens,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.api.context import Context

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    ReadHandler = Callable[[Context, web.BaseRequest], Awaitable[web.StreamResponse]]

_ROUTES = (
    tokens,
    authorization,
    client_credentials,
    grants,
    import_one,
    providers,
    attempts,
    explanation,
    imports,
    login,
    health,
    verdict,
    metrics,
    reseal,
    reload,
    day,
    events,
    status_page,
    openapi,  # last: it describes the routes before it, and itself
)
_READ = re.compile(
    r"/v1/grants/([A-Za-z0-9][A-Za-z0-9._-]{0,127})/"
    r"(?:(token)(?:\?min_ttl=([0-9]{1,9}(?:\.[0-9]{1,3})?))?|authorization(?:[/?].*)?)"
)


def make_applications(context: Context) -> tuple[web.Application, web.Application]:
    """Make the whole application, and the part of it that may face the internet (`/login` and `/callback`)."""
    whole = web.Application(middlewares=[_check_host, _answer_errors], client_max_size=BODY_LIMIT)
    for routes in _ROUTES:
        routes.add_routes(whole.router)
    public = web.Application(middlewares=[_answer_errors], client_max_size=BODY_LIMIT)
    login.add_browser_routes(public.router)
    whole[CONTEXT] = public[CONTEXT] = context
    return whole, public


@lru_cache(4096)
def find_read(method: str, path: str) -> ReadHandler | None:
    """Return the handler of a frequent read, by the method and path of the request line.

    Returns:
        None for every other request, and for a read that is spelled in an unusual way: the application handles those.
    """
    if method == "POST" and path == client_credentials.PATH:
        return client_credentials.grant_token
    match = _READ.fullmatch(path)
    if match is None or (match[2] and method != "GET"):
        return None
    if match[2]:
        return partial(tokens.get_token, grant_id=match[1], min_ttl=match[3])
    return partial(authorization.authorize, grant_id=match[1])


@web.middleware
async def _check_host(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a request whose `Host` is not served here."""
    context = request.app[CONTEXT]
    if not context.hosts.is_served(request):
        context.denials.note(request, "wrong_host")
        return finish(context, for_reader(misdirected_response(), request.path, request.headers.get(hdrs.ACCEPT, "")))
    return await handler(request)


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except Exception as error:  # noqa: BLE001 - every error has a response
        request.app[CONTEXT].denials.note_error(request, error)
        refusal = response_to_error(error, request.method, _route(request))
        response = for_reader(refusal, request.path, request.headers.get(hdrs.ACCEPT, ""))
        if request.writer.output_size > 0 and request.transport is not None:
            request.transport.abort()  # a streamed response has begun, so no other one can follow
    return finish(request.app[CONTEXT], response)


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource else "?"
