"""What every route reads from a request: the grant id, the caller, a JSON body. Knows no route, makes no response."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from broker import errors
from broker.api import session
from broker.api.callers import how_to_give
from broker.api.context import CONTEXT
from broker.model import GRANT_ID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from broker.api.callers import Caller, Right
    from broker.api.context import Context
    from broker.api.server import Protocol

BODY_LIMIT = 64 * 1024
"""Bytes."""
AWAITS_CONTINUE = web.RequestKey("awaits_continue", bool)
"""Set in a request whose client sends the body only after a 100 (Continue)."""
INVALID_GRANT_ID = "a grant id is a letter or digit, then letters, digits, '.', '_' or '-', at most 128 characters"


def read_grant_id(request: web.Request) -> str:
    """Return the grant id in the path.

    Raises:
        InvalidRequest: no grant can have this id.
    """
    grant_id = request.match_info["id"]
    if not GRANT_ID.fullmatch(grant_id):
        raise errors.InvalidRequest(INVALID_GRANT_ID)
    return grant_id


def find_session(request: web.Request) -> session.Session | None:
    """Return the session of the status page's cookie, whatever the route; None where nobody is signed in."""
    context = request.app[CONTEXT]
    value = session.cookie(request.headers, session.cookie_name(context.settings.http.public_url))
    return session.open_(context.store.sealer, context.callers, value, context.store.clock()) if value else None


def is_from_status_page(request: web.Request) -> bool:
    """Return whether the status page sent this: with its cookie, on its routes, and without a key.

    A key in the request decides alone.
    """
    resource = request.match_info.route.resource
    return (
        not session.has_key(request.headers)
        and resource is not None
        and (request.method, resource.canonical) in session.ROUTES
        and session.cookie(request.headers, session.cookie_name(request.app[CONTEXT].settings.http.public_url))
        is not None
    )


def authenticate(request: web.Request, *, again: bool = False, audited: bool = True) -> Caller:
    """Return the caller, known by its key or by the status page's cookie.

    Args:
        request: the request.
        again: whether this request asked before.
        audited: whether the audit stream must take a line, where the settings demand it.

    Raises:
        UnknownKey: no key, an unknown key, or a session that is over.
        NotAllowed: another page sent the status page's cookie.
    """
    context, headers = request.app[CONTEXT], request.headers
    if is_from_status_page(request):
        session.require_page(request.method, headers, context.settings.http.public_url)
        signed_in = find_session(request)
        if signed_in is None:
            raise session.session_over()
        caller = signed_in.caller
    else:
        caller = context.callers.authenticate(headers)
    if not again:
        admit(context, request, caller, audited=audited)
    return caller


def authenticate_for(request: web.Request, right: Right, *, again: bool = False, audited: bool = True) -> Caller:
    """Return the caller, who must have *right* on some grant; *again* and *audited* are those of `authenticate`.

    Raises:
        UnknownKey: as `authenticate`.
        NotAllowed: the caller has it on no grant.
    """
    caller = authenticate(request, again=again, audited=audited)
    if not caller.has(right):
        raise errors.NotAllowed(
            f"caller {caller.name!r} has no {right} right on any grant: {how_to_give(right)}", caller=caller.name
        )
    return caller


def authenticate_admin_of_all(request: web.Request, reason: str, *, of_providers: bool = False) -> Caller:
    """Return the caller, who must be admin of every grant; *reason* says why one grant is not enough.

    Args:
        request: the request.
        reason: why one grant is not enough.
        of_providers: whether an admin of all grants of some providers is enough.

    Raises:
        UnknownKey: as `authenticate`.
        NotAllowed: the caller is not admin of every grant.
    """
    caller = authenticate_for(request, "admin")
    if not caller.administers_all:
        words = f'caller {caller.name!r} is not admin of every grant (admin = ["*"]): {reason}'
        raise errors.NotAllowed(f"{words}; {how_to_give('admin', '*')}", caller=caller.name)
    if not (of_providers or caller.administers_everything):
        words = f"caller {caller.name!r} keeps to the providers {caller.provider_names}: {reason}"
        cure = "remove `providers` from its table in the settings and run `token-broker reload`"
        raise errors.NotAllowed(f"{words}; {cure}", denied="other_provider", caller=caller.name)
    return caller


async def permit(request: web.Request, right: Right) -> tuple[str, Caller]:
    """Return the grant id in the path and the caller, who must have *right* on it.

    Raises:
        InvalidRequest: no grant can have this id.
        UnknownKey: as `authenticate`.
        NotAllowed: the caller lacks the right, or the grant is of another provider than the caller's.
    """
    grant_id, caller = read_grant_id(request), authenticate(request)
    caller.require(right, grant_id)
    await require_provider_of(request.app[CONTEXT], caller, grant_id)
    return grant_id, caller


async def require_provider_of(context: Context, caller: Caller, grant_id: str) -> None:
    """Require that a grant, where there is one, is of a provider of the caller's.

    Raises:
        NotAllowed: it is of another one.
    """
    if caller.providers is not None:
        held = await context.store.registry.generation(grant_id)
        if held is not None:
            caller.require_provider(held.provider)


def admit(context: Context, request: web.BaseRequest, caller: Caller, *, audited: bool = True) -> None:
    """Count a request of a known *caller*, once its key was found; *audited* is that of `authenticate`.

    Raises:
        QuotaExceeded: the caller sends too many.
        AuditUnavailable: what it does cannot be audited, and must be.
    """
    connection_of(request).is_known = True
    if caller.quota is not None:
        caller.quota.spend()
    if audited and context.audit is not None:
        context.audit.require()


def require_provider(provider: object, providers: Collection[str], caller: Caller) -> str:
    """Return *provider*, which must be one of the *providers* in the settings, and one of the caller's.

    Raises:
        InvalidRequest: it is none of them; the error names those of the caller's.
        NotAllowed: it is none of the caller's, whether or not it exists.
    """
    if isinstance(provider, str):
        caller.require_provider(provider)
    known = ", ".join(filter(caller.may_use, providers))
    if not isinstance(provider, str) or provider not in providers:
        raise errors.InvalidRequest(
            f"this provider is not in the settings: {f'use one of {known}' if known else 'add [providers.NAME] first'}"
        )
    return provider


async def read_json(request: web.Request, *members: str) -> dict[str, Any]:
    """Return the JSON object in the body.

    Args:
        request: the request.
        members: the members that the route takes, for the error's text.

    Raises:
        EncodedBody: the body is compressed.
        InvalidRequest: the body is not a JSON object.
    """
    return _parse_json(await read_body(request), members)


def _parse_json(raw: bytes, members: tuple[str, ...]) -> dict[str, Any]:
    wanted = f"send a JSON object with {', '.join(members)}"
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise errors.InvalidRequest(f"the body is not JSON: {wanted}") from None
    if not isinstance(body, dict):
        raise errors.InvalidRequest(f"the body is not a JSON object: {wanted}")
    return body


async def read_optional_json(request: web.Request, *members: str) -> dict[str, Any]:
    """Return the JSON object in the body, or `{}` where there is no body; as `read_json` otherwise."""
    raw = await read_body(request)
    return _parse_json(raw, members) if raw.strip() else {}


async def read_body(request: web.BaseRequest) -> bytes:
    """Return the whole body.

    Raises:
        EncodedBody: it is compressed.
        HTTPRequestEntityTooLarge: it is longer than `BODY_LIMIT`.
        HTTPRequestTimeout: it does not arrive within `http.body_timeout`.
    """
    require_unencoded(request)
    if (request.content_length or 0) > BODY_LIMIT:
        raise web.HTTPRequestEntityTooLarge(BODY_LIMIT, request.content_length or 0)
    await invite_body(request)
    if request.content.is_eof():  # it has arrived
        return await request.read()
    body = bytearray()
    async for piece in read_pieces(request):
        body += piece
        if len(body) > BODY_LIMIT:
            raise web.HTTPRequestEntityTooLarge(BODY_LIMIT, len(body))
    return bytes(body)


async def read_pieces(request: web.BaseRequest) -> AsyncIterator[bytes]:
    """Yield a body of any length as it arrives. Each 64 KiB of it has as much time to arrive as a short body.

    Others go first after each piece: what has arrived may be a hundred pieces, of many short chunks.

    Raises:
        HTTPRequestTimeout: it arrives too slowly. The time that the reader of the pieces takes does not count.
    """
    loop, each = asyncio.get_running_loop(), connection_of(request).body_timeout
    left, due = each, BODY_LIMIT
    request.content.set_read_chunk_size(BODY_LIMIT)  # many short chunks end a piece earlier (`server.BUFFERED`)
    while not request.content.at_eof():
        began = loop.time()
        try:
            async with asyncio.timeout(left):
                piece = await request.content.readany()
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        left -= loop.time() - began
        due -= len(piece)
        if due <= 0:
            left, due = each, BODY_LIMIT
        if piece:
            yield piece
            await asyncio.sleep(0)


def connection_of(request: web.BaseRequest) -> Protocol:
    """Return the connection of a request."""
    return cast("Protocol", request.protocol)


def peer_of(request: web.BaseRequest) -> str:
    """Return the address of the client, also behind trusted proxies; `unix` where it came over a Unix socket."""
    return connection_of(request).peer or "unix"


async def invite_body(request: web.BaseRequest) -> None:
    """Tell a client that waits for it to send the body (RFC 9110 §10.1.1), once nothing speaks against the request."""
    if request.pop(AWAITS_CONTINUE, None):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the response has not begun


def require_unencoded(request: web.BaseRequest) -> None:
    """Refuse a compressed body (RFC 9110 §8.4) before it is read: to inflate it may cost a thousand times its size.

    Routes that read no body do not ask: a proxy passes on the headers of somebody's upload without its body.

    Raises:
        EncodedBody: the body is compressed.
    """
    codings = ",".join(request.headers.getall("Content-Encoding", ())).replace(" ", "").lower()
    if set(codings.split(",")) - {"", "identity"}:
        raise errors.EncodedBody("the body has a Content-Encoding: send it without compression")
