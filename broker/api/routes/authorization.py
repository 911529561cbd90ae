"""For proxies: the current token as an `Authorization` header, so that the services behind need not know the broker.

nginx's `auth_request` sends GET and accepts any 2xx. Envoy sends the client's own method and accepts only 200. Traefik
and Caddy forward all headers of the client, also its `Authorization`: that is why `X-Broker-Key` wins.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from broker.api import audit
from broker.api.context import CONTEXT
from broker.api.requests import read_grant_id
from broker.api.routes.tokens import authorize_caller, find_token, preferred_wait

if TYPE_CHECKING:
    from aiohttp import web

    from broker.api.context import Context


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    for path in ("/v1/grants/{id}/authorization", "/v1/grants/{id}/authorization/{suffix:.*}"):
        router.add_route("*", path, _authorize)


async def authorize(context: Context, request: web.BaseRequest, grant_id: str) -> web.StreamResponse:
    """`* /v1/grants/{id}/authorization`: return the token as a header, with 200 and no body, whatever the method.

    The request's body is not read.
    """
    caller = authorize_caller(context, request, "read", grant_id)
    token = context.reader.at_hand(grant_id)
    if token is None:
        token = await find_token(context, caller, grant_id, wait=preferred_wait(request))
    caller.require_provider(token.provider)
    audit.token_read(context, request, caller, grant_id, token.generation)
    return context.responses.authorization.respond(request, token)


@functools.wraps(authorize)
async def _authorize(request: web.Request) -> web.StreamResponse:
    return await authorize(request.app[CONTEXT], request, read_grant_id(request))
