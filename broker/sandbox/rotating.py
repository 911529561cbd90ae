"""A server as the RFCs describe it: RFC 6749 with rotation and reuse detection, OIDC discovery, RFC 7009."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from broker.sandbox.authorize import AuthorizationEndpoint
from broker.sandbox.dialect import Dialect
from broker.sandbox.endpoints import faulty, revocation_endpoint, token_endpoint
from broker.sandbox.forms import bearer_token
from broker.sandbox.options import Options

if TYPE_CHECKING:
    from broker.sandbox.authority import Authority, Code
    from broker.sandbox.options import TokenPair


def _options() -> Options:
    return Options(send_iss=True)


DIALECT: Final = Dialect(
    name="rotating",
    title="Rotating server (sandbox)",
    paths={
        "issuer": "/rotating",
        "authorize": "/rotating/authorize",
        "token": "/rotating/token",
        "revoke": "/rotating/revoke",
        "discovery": "/rotating/.well-known/openid-configuration",
        "jwks": "/rotating/jwks",
        "api": "/rotating/userinfo",
    },
    options=_options,
    mint=lambda: f"rs_{secrets.token_urlsafe(32)}",
    default_scope="openid offline_access",
    body_credentials=True,
)


def routes(authority: Authority) -> list[web.RouteDef]:
    """Return the routes that serve *authority*."""

    def extras(pair: TokenPair, terms: Code | None) -> dict[str, Any]:
        if "openid" not in pair.scope.split() or (terms is None and not authority.options.id_token_on_refresh):
            return {}
        user = terms.user if terms is not None else next(f.user for f in authority.families if f.id == pair.family)
        return {"id_token": _id_token(authority, user, terms.nonce if terms is not None else None)}

    async def discovery(_request: web.Request) -> web.Response:
        return web.json_response(_metadata(authority))

    async def jwks(_request: web.Request) -> web.Response:
        return web.json_response({"keys": []})

    async def userinfo(request: web.Request) -> web.Response:
        token = bearer_token(request)
        family = None if token is None else authority.bearer(token)
        if family is None:
            challenge = 'Bearer error="invalid_token"' if token else "Bearer"
            return web.json_response({"error": "invalid_token"}, status=401, headers={"WWW-Authenticate": challenge})
        return web.json_response({"sub": family.user, "preferred_username": family.user})

    paths = DIALECT.paths
    authorize = AuthorizationEndpoint(authority).handler()
    describe = faulty(authority, "discovery", discovery)
    return [
        web.get(paths["authorize"], authorize),
        web.post(paths["authorize"], authorize),
        web.post(paths["token"], token_endpoint(authority, extras)),
        web.post(paths["revoke"], revocation_endpoint(authority)),
        web.get(paths["discovery"], describe),
        # RFC 8414 §3.1 puts the well-known part between host and path.
        web.get(f"/.well-known/oauth-authorization-server{paths['issuer']}", describe),
        web.get(paths["jwks"], jwks),
        web.get(paths["api"], faulty(authority, "api", userinfo)),
    ]


def _metadata(authority: Authority) -> dict[str, Any]:
    """Return the discovery document (OpenID Connect Discovery §3, RFC 8414 §2)."""
    methods = ["client_secret_basic", "client_secret_post"]
    return {
        "issuer": authority.issuer,
        "authorization_endpoint": authority.endpoint("authorize"),
        "token_endpoint": authority.endpoint("token"),
        "revocation_endpoint": authority.endpoint("revoke"),
        "userinfo_endpoint": authority.endpoint("api"),
        "jwks_uri": authority.endpoint("jwks"),
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["HS256"],
        "token_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_methods_supported": methods,
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": authority.options.send_iss,
    }


def _id_token(authority: Authority, user: str, nonce: str | None) -> str:
    """Return an ID token (OpenID Connect Core §2), signed with the client secret, as HS256 is."""
    now, options = int(authority.clock()), authority.options
    claims: dict[str, Any] = {"iss": authority.issuer, "sub": user, "aud": authority.client_id}
    claims |= {"iat": now, "exp": now + 300, "preferred_username": user, "email": f"{user}@example.com"}
    claims |= {"nonce": nonce, **options.id_token_claims}
    kept = {name: value for name, value in claims.items() if value is not None}
    signed = f"{_segment({'alg': 'HS256', 'typ': 'JWT'})}.{_segment(kept)}"
    signature = hmac.digest(authority.client_secret.encode(), signed.encode(), hashlib.sha256)
    token = options.id_token or f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    authority.note_secret(token)
    return token


def _segment(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
