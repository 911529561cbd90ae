"""Read token requests, and write their responses and errors (RFC 6749 §2.3.1, §3.2, §5)."""

from __future__ import annotations

import base64
import binascii
import math
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import web

from broker.sandbox.refusal import INVALID_CLIENT, INVALID_GRANT, INVALID_REQUEST, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.sandbox.authority import Authority
    from broker.sandbox.options import TokenPair

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


async def read_parameters(request: web.Request, authority: Authority) -> dict[str, str]:
    """Return the parameters of a request to a token or revocation endpoint.

    Those without a value count as absent (RFC 6749 §3.1).

    Raises:
        Refused: `invalid_request` for a repeated parameter, a body that is not a form, or parameters in the query
            where the dialect does not allow them.

    """
    body = await request.read()
    if body and request.content_type != "application/x-www-form-urlencoded":
        raise Refused(INVALID_REQUEST, "the body must be application/x-www-form-urlencoded")
    query = raw_query(request)
    if query and not authority.dialect.query_parameters:
        raise Refused(INVALID_REQUEST, "parameters belong in the body")
    try:
        pairs = parse_qsl(query, keep_blank_values=True) + parse_qsl(body.decode(), keep_blank_values=True)
    except ValueError:
        raise Refused(INVALID_REQUEST, "the body is not UTF-8") from None
    parameters = dict(pairs)
    if len(parameters) != len(pairs):
        raise Refused(INVALID_REQUEST, "a parameter occurs twice")
    return {name: value for name, value in parameters.items() if value}


def authenticate(request: web.Request, parameters: Mapping[str, str], authority: Authority) -> None:
    """Check that the registered client sent this (RFC 6749 §2.3.1).

    Raises:
        Refused: `invalid_client`; `invalid_request` for credentials in two places.

    """
    header = request.headers.get("Authorization")
    in_body = "client_secret" in parameters
    if header is not None:
        if in_body:
            raise Refused(INVALID_REQUEST, "client credentials in the header and in the body")
        client_id, secret = _basic(header, form=authority.options.basic_encoding == "form")
        if parameters.get("client_id", client_id) != client_id:
            raise Refused(INVALID_REQUEST, "two different client ids")
    elif in_body and authority.dialect.body_credentials:
        client_id, secret = parameters.get("client_id", ""), parameters["client_secret"]
    else:
        raise Refused(INVALID_CLIENT, "no client credentials")
    same_id = secrets.compare_digest(client_id.encode(), authority.client_id.encode())
    if not (secrets.compare_digest(secret.encode(), authority.client_secret.encode()) and same_id):
        raise Refused(INVALID_CLIENT, "unknown client or wrong secret")


def bearer_token(request: web.Request) -> str | None:
    """Return the token of `Authorization: Bearer` (RFC 6750 §2.1)."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def raw_query(request: web.Request) -> str:
    """Return the query exactly as it was sent, percent-encoding included."""
    return request.raw_path.partition("?")[2].partition("#")[0]


def token_response(pair: TokenPair, authority: Authority, extras: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the members of a successful response (RFC 6749 §5.1)."""
    members: dict[str, Any] = {"access_token": pair.access_token, "token_type": authority.dialect.token_type}
    if pair.refresh_token is not None:
        members["refresh_token"] = pair.refresh_token
    if pair.expires_in is not None:
        # Servers send whole seconds; a fraction is sent only if one was configured, for quick tests.
        whole = float(authority.options.access_lifetime or 0).is_integer()
        members["expires_in"] = math.floor(pair.expires_in) if whole else pair.expires_in
    if pair.scope:
        members["scope"] = pair.scope
    return {**members, **(extras or {})}


def refusal(refused: Refused, authority: Authority) -> web.Response:
    """Return the error response of a token endpoint (RFC 6749 §5.2, with the dialect's own statuses)."""
    headers = dict(NO_STORE)
    status = 400
    if refused.error == INVALID_CLIENT:
        status = 401
        headers["WWW-Authenticate"] = f'Basic realm="{authority.dialect.name}"'
    elif refused.error == INVALID_GRANT:
        status = authority.dialect.dead_grant_status
    body = {"error": refused.error, "error_description": refused.description}
    return web.json_response(body, status=status, headers=headers)


def _basic(header: str, *, form: bool) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        decoded = ""
    client_id, colon, secret = decoded.partition(":")
    if scheme.lower() != "basic" or not colon:
        raise Refused(INVALID_CLIENT, "the Authorization header is not Basic")
    return (unquote_plus(client_id), unquote_plus(secret)) if form else (client_id, secret)
