"""Eagle Eye API V3's dialect: rotates at every refresh, invalidates the old access token, sends a base URL."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from broker.sandbox.authorize import AuthorizationEndpoint
from broker.sandbox.dialect import Dialect
from broker.sandbox.endpoints import faulty, revocation_endpoint, token_endpoint
from broker.sandbox.forms import bearer_token
from broker.sandbox.options import Options

if TYPE_CHECKING:
    from broker.sandbox.authority import Authority, Code
    from broker.sandbox.options import TokenPair

_DAY: Final = 86400.0


def _options() -> Options:
    return Options(
        access_lifetime=43198,
        invalidate_old_token=True,
        basic_encoding="plain",
        idle_limit=14 * _DAY,
        absolute_limit=90 * _DAY,
    )


DIALECT: Final = Dialect(
    name="v3",
    title="Eagle Eye API V3 (sandbox)",
    paths={
        "authorize": "/v3/oauth2/authorize",
        "token": "/v3/oauth2/token",
        "revoke": "/v3/oauth2/revoke",
        "api": "/v3/api/v3.0/users/self",
    },
    options=_options,
    mint=lambda: f"c001~{secrets.token_hex(20)}",
    scopes=frozenset({"vms.all"}),
    default_scope="vms.all",
    dead_grant_status=401,
    strict_redirect_uri=True,
)


def routes(authority: Authority) -> list[web.RouteDef]:
    """Return the routes that serve *authority*."""

    def extras(_pair: TokenPair, _terms: Code | None) -> dict[str, Any]:
        base = urlsplit(authority.base_url)
        return {"httpsBaseUrl": {"hostname": base.hostname, "port": base.port}}

    async def self_(request: web.Request) -> web.Response:
        token = bearer_token(request)
        family = None if token is None else authority.bearer(token)
        if family is None:
            body = {"code": 401, "status": "unauthenticated", "message": "The access token is not valid."}
            return web.json_response(body, status=401)
        return web.json_response({"id": family.user, "email": f"{family.user}@example.com"})

    paths = DIALECT.paths
    authorize = AuthorizationEndpoint(authority).handler()
    return [
        web.get(paths["authorize"], authorize),
        web.post(paths["authorize"], authorize),
        web.post(paths["token"], token_endpoint(authority, extras)),
        web.post(paths["revoke"], revocation_endpoint(authority)),
        web.get(paths["api"], faulty(authority, "api", self_)),
    ]
