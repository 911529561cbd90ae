"""Eagle Eye CameraManager's dialect: opaque tokens, no rotation, parameters in query or form, own log-out."""

from __future__ import annotations

import asyncio
import uuid
import zlib
from typing import TYPE_CHECKING, Final

from aiohttp import web

from broker.sandbox.authorize import AuthorizationEndpoint
from broker.sandbox.dialect import Dialect
from broker.sandbox.endpoints import faulty, token_endpoint
from broker.sandbox.forms import bearer_token
from broker.sandbox.options import Options

if TYPE_CHECKING:
    from broker.sandbox.authority import Authority


def _options() -> Options:
    return Options(access_lifetime=43199, rotate=False, return_state=False, scope_required=True, basic_encoding="plain")


DIALECT: Final = Dialect(
    name="cameramanager",
    title="CameraManager (sandbox)",
    paths={
        "authorize": "/oauth/authorize",
        "token": "/oauth/token",
        "logout": "/rest/v2.0/users/self/tokens/current",
        "api": "/rest/v2.4/cameras",
        "account": "/rest/v2.3/users/self",
    },
    options=_options,
    mint=lambda: f"{uuid.uuid4()}:10003",
    token_type="bearer",
    scopes=frozenset({"write", "read"}),
    default_scope="write",
    query_parameters=True,
)


def routes(authority: Authority) -> list[web.RouteDef]:
    """Return the routes that serve *authority*."""

    async def log_out(request: web.Request) -> web.Response:
        await asyncio.sleep(authority.options.latency)
        token = bearer_token(request)
        if token is None or authority.bearer(token) is None:
            return _unauthorized()
        authority.revoke_family(token)
        return web.Response(status=204)

    async def cameras(request: web.Request) -> web.Response:
        token = bearer_token(request)
        if token is None or authority.bearer(token) is None:
            return _unauthorized()
        return web.json_response([{"cameraId": 1, "name": "Front door"}, {"cameraId": 2, "name": "Yard"}])

    async def self_(request: web.Request) -> web.Response:
        token = bearer_token(request)
        family = None if token is None else authority.bearer(token)
        if family is None:
            return _unauthorized()
        user = {"userId": zlib.crc32(family.user.encode()), "accountId": 10003, "email": f"{family.user}@example.com"}
        return web.json_response(user)

    paths = DIALECT.paths
    authorize = AuthorizationEndpoint(authority).handler()
    return [
        web.get(paths["authorize"], authorize),
        web.post(paths["authorize"], authorize),
        web.post(paths["token"], token_endpoint(authority)),
        web.delete(paths["logout"], faulty(authority, "logout", log_out)),
        web.get(paths["api"], faulty(authority, "api", cameras)),
        web.get(paths["account"], faulty(authority, "account", self_)),
    ]


def _unauthorized() -> web.Response:
    body = {"code": 401, "title": "Unauthorized", "detail": "The access token is unknown or has expired."}
    return web.json_response(body, status=401)
