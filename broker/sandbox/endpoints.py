"""The endpoints that every dialect has in some form: token, revocation, and APIs that need an access token."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from broker.sandbox.fault_effects import perform
from broker.sandbox.forms import NO_STORE, authenticate, read_parameters, refusal, token_response
from broker.sandbox.options import fingerprint
from broker.sandbox.refusal import INVALID_REQUEST, UNSUPPORTED_GRANT_TYPE, Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from broker.sandbox.authority import Authority, Code
    from broker.sandbox.options import TokenPair, TokenRequest

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Process = Callable[[web.Request], Awaitable[web.Response]]
    Extras = Callable[[TokenPair, Code | None], Mapping[str, Any]]
    """Makes a dialect's own members of a token response; the code's terms are None at a refresh."""

_STANDARD: Final = frozenset(
    {
        "grant_type",
        "refresh_token",
        "code",
        "redirect_uri",
        "code_verifier",
        "scope",
        "client_id",
        "client_secret",
    }
)
"""The parameters of RFC 6749 and RFC 7636 at a token endpoint."""


def faulty(authority: Authority, endpoint: str, process: Process) -> Handler:
    """Return *process* as a handler with the faults ordered for *endpoint*."""

    async def handle(request: web.Request) -> web.StreamResponse:
        fault = authority.faults.take(endpoint)
        response, _ = await perform(fault, request, authority, lambda: process(request))
        return response

    return handle


def token_endpoint(authority: Authority, extras: Extras | None = None) -> Handler:
    """Return the token endpoint (RFC 6749 §3.2); every request that reaches it enters the ledger."""

    async def handle(request: web.Request) -> web.StreamResponse:
        record = authority.note_request()
        fault = authority.faults.take("token")
        record.fault = None if fault is None else fault.kind
        if record.fault != "refuse":
            with contextlib.suppress(Refused):
                parameters = await read_parameters(request, authority)
                presented = parameters.get("refresh_token") or parameters.get("code")
                authority.note_presented(record, parameters.get("grant_type"), presented)
                record.others = {name: value for name, value in parameters.items() if name not in _STANDARD}

        async def process() -> web.Response:
            await asyncio.sleep(authority.options.latency)
            record.processed = True
            return await _redeem(request, authority, record, extras)

        response, complete = await perform(fault, request, authority, process)
        record.status = response.status if complete else None
        return response

    return handle


def revocation_endpoint(authority: Authority) -> Handler:
    """Return the revocation endpoint (RFC 7009 §2): 200 whether or not the token was known."""

    async def process(request: web.Request) -> web.Response:
        await asyncio.sleep(authority.options.latency)
        try:
            parameters = await read_parameters(request, authority)
            authenticate(request, parameters, authority)
            authority.revoke(_required(parameters, "token"))
        except Refused as refused:
            return refusal(refused, authority)
        return web.Response(headers=NO_STORE)

    return faulty(authority, "revoke", process)


async def _redeem(
    request: web.Request, authority: Authority, record: TokenRequest, extras: Extras | None
) -> web.Response:
    try:
        parameters = await read_parameters(request, authority)
        authenticate(request, parameters, authority)
        pair, terms = _granted(parameters, authority)
    except Refused as refused:
        record.error = refused.error
        return refusal(refused, authority)
    record.family = pair.family
    record.issued = None if pair.refresh_token is None else fingerprint(pair.refresh_token)
    body = token_response(pair, authority, None if extras is None else extras(pair, terms))
    return web.json_response(body, headers=NO_STORE)


def _granted(parameters: Mapping[str, str], authority: Authority) -> tuple[TokenPair, Code | None]:
    scope = parameters.get("scope")
    if authority.options.scope_required or scope is not None:
        authority.checked_scope(scope)
    match parameters.get("grant_type"):
        case "authorization_code":
            verifier, redirect_uri = parameters.get("code_verifier"), parameters.get("redirect_uri")
            return authority.exchange(_required(parameters, "code"), redirect_uri, verifier)
        case "refresh_token":
            return authority.refresh(_required(parameters, "refresh_token"), scope), None
        case None:
            raise Refused(INVALID_REQUEST, "grant_type is missing")
        case _:
            raise Refused(UNSUPPORTED_GRANT_TYPE, "authorization_code and refresh_token only")


def _required(parameters: Mapping[str, str], name: str) -> str:
    try:
        return parameters[name]
    except KeyError:
        raise Refused(INVALID_REQUEST, f"{name} is missing") from None
