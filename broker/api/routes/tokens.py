"""What services ask: the current token of a grant, and a refresh of a token that an API answered with 401."""

from __future__ import annotations

import functools
import re
from contextlib import nullcontext
from typing import TYPE_CHECKING

from aiohttp import hdrs, web
from multidict import istr

from broker.api import audit
from broker.api.cached_responses import applied_preference, token_headers
from broker.api.callers import single
from broker.api.context import CONTEXT
from broker.api.requests import admit, authenticate, is_from_status_page, read_grant_id, require_provider_of
from broker.api.responses import error_response
from broker.errors import InvalidRequest, NotAllowed, UnknownKey
from broker.read.reader import DEFAULT_WAIT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from broker.api.callers import Caller, Right
    from broker.api.context import Context
    from broker.model import Token

MAX_WAIT = 55.0
"""Seconds: below the 60 s after which common proxies give up."""
_PREFER = istr("Prefer")
_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})(?![0-9.])\"?", re.IGNORECASE)
_PREFER_MINIMAL = re.compile(r"(?:^|[,;\s])return\s*=\s*\"?minimal\"?(?![a-z])", re.IGNORECASE)
_EXACT = 2
"""How specific a media range of `Accept` is that names a media type: `text/*` is 1, `*/*` is 0."""
_ETAG = re.compile(r'^\s*(?:W/)?"([0-9]{1,64})"\s*$')


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_get("/v1/grants/{id}/token", _get_token)
    router.add_post("/v1/grants/{id}/refresh", refresh)


async def get_token(
    context: Context, request: web.BaseRequest, grant_id: str, min_ttl: str | None
) -> web.StreamResponse:
    """`GET /v1/grants/{id}/token`: return the current token; a long poll with `If-None-Match` and `Prefer: wait`."""
    headers, reader = request.headers, context.reader
    caller = require_right(context, request, "read", grant_id)
    admit(context, request, caller)
    min_ttl_ms = _min_ttl_ms(min_ttl)
    if min_ttl_ms:
        caller.require("refresh", grant_id)
    wait = preferred_wait(request)
    token = reader.at_hand(grant_id, min_ttl_ms)
    if token is None:
        token = await find_token(context, caller, grant_id, min_ttl_ms=min_ttl_ms, wait=wait)
        require_right(context, request, "read", grant_id)  # it may have lost the right while it waited
    if caller.providers is not None:
        caller.require_provider(token.provider)
    if _matches(headers.getall(hdrs.IF_NONE_MATCH, ()), token):
        check = functools.partial(require_right, context, request, "read", grant_id)
        with waiting(caller, wait):
            newer = await reader.newer(grant_id, token.generation, wait, check) if wait else None
        if newer is None:
            return context.responses.not_modified.respond(request, token, wait)
        token = newer
        caller.require_provider(token.provider)
    audit.token_read(context, request, caller, grant_id, token.generation)
    return respond_with_token(context, request, token, wait)


@functools.wraps(get_token)
async def _get_token(request: web.Request) -> web.StreamResponse:
    return await get_token(request.app[CONTEXT], request, read_grant_id(request), request.query.get("min_ttl"))


async def refresh(request: web.Request) -> web.StreamResponse:
    """`POST /v1/grants/{id}/refresh`: refresh the token named by `If-Match`, to which an API answered 401.

    With `Prefer: return=minimal` (RFC 7240 §4.2), and for the status page, the response is 204 and carries no token.
    """
    context, grant_id, from_page = request.app[CONTEXT], read_grant_id(request), is_from_status_page(request)
    caller = authenticate(request) if from_page else authorize_caller(context, request, "refresh", grant_id)
    caller.require("refresh", grant_id)
    await require_provider_of(context, caller, grant_id)
    condition = single(request.headers, "If-Match")
    if condition is None:
        return error_response(
            428,
            "precondition_required",
            'If-Match is missing: send the ETag of the token that got the 401, If-Match: "GENERATION"',
        )
    match = _ETAG.match(condition)
    if match is None:
        raise InvalidRequest('If-Match is not the ETag of a token: send one such as "1764000000000"')
    wait, reported = preferred_wait(request), int(match[1])
    audit.acted(request, caller, "refresh.reported", grant_id, generation=reported)
    with waiting(caller, wait):
        token = await context.reader.refreshed(grant_id, reported, DEFAULT_WAIT * 2 if wait is None else wait)
    if from_page or _PREFER_MINIMAL.search(",".join(request.headers.getall(_PREFER, ()))):
        return web.Response(status=204, headers={**token_headers(token), "Preference-Applied": "return=minimal"})
    audit.token_read(context, request, caller, grant_id, token.generation)
    return respond_with_token(context, request, token, wait)


def require_right(context: Context, request: web.BaseRequest, right: Right, grant_id: str) -> Caller:
    """Return the caller, who must have *right* on the grant; count a refusal.

    Raises:
        UnknownKey: no key, or an unknown one.
        NotAllowed: the caller does not have the right.
    """
    try:
        caller = context.callers.authenticate(request.headers)
        caller.require(right, grant_id)
    except (NotAllowed, UnknownKey):
        context.metrics.token_requests.labels("denied").inc()
        raise
    return caller


def authorize_caller(context: Context, request: web.BaseRequest, right: Right, grant_id: str) -> Caller:
    """Return the caller of a new request, which counts for its quota; as `require_right` otherwise.

    Raises:
        QuotaExceeded: the caller sends too many.
        AuditUnavailable: what it does cannot be audited, and must be.
    """
    caller = require_right(context, request, right, grant_id)
    admit(context, request, caller)
    return caller


async def find_token(
    context: Context, caller: Caller, grant_id: str, *, min_ttl_ms: int = 0, wait: float | None = None
) -> Token:
    """Return the token of a grant that is not at hand, if the grant is of a provider of the caller's."""
    await require_provider_of(context, caller, grant_id)
    with waiting(caller, wait):
        return await context.reader.current(
            grant_id, min_ttl_ms=min_ttl_ms, wait=DEFAULT_WAIT if wait is None else wait
        )


def waiting(caller: Caller, wait: float | None) -> AbstractContextManager[None]:
    """Return what counts a request that prefers to wait *wait* seconds for the caller's quota, while it lasts."""
    return caller.quota.waiting() if wait and caller.quota is not None else nullcontext()


def respond_with_token(
    context: Context, request: web.BaseRequest, token: Token, wait: float | None
) -> web.StreamResponse:
    """Return the token as JSON, or as text where the caller prefers that."""
    if prefers_text(request.headers.getall(hdrs.ACCEPT, ())):
        text = token.access_token.reveal()
        headers = {**token_headers(token), **applied_preference(wait)}
        return web.Response(body=text.encode(), content_type="text/plain", headers=headers)
    return context.responses.token.respond(request, token, wait)


def _matches(lines: Sequence[str], token: Token) -> bool:
    """Return whether `If-None-Match`, in one line or several (RFC 9110 §5.3), names the token."""
    if not lines:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in ",".join(lines).split(",")]
    return "*" in tags or f'"{token.generation}"' in tags


def preferred_wait(request: web.BaseRequest) -> float | None:
    """Return the seconds of `Prefer: wait` (RFC 7240 §4.3), at most `MAX_WAIT`; None where it is missing or invalid."""
    if _PREFER not in request.headers:
        return None
    match = _PREFER_WAIT.search(",".join(request.headers.getall(_PREFER)))
    return min(float(match[1]), MAX_WAIT) if match else None


def _min_ttl_ms(raw: str | None) -> int:
    if raw is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", raw):
        raise InvalidRequest("min_ttl is not a number of seconds: send one such as min_ttl=60")
    return int(float(raw) * 1000)


def prefers_text(lines: Sequence[str]) -> bool:
    """Return whether `Accept`, in one line or several (RFC 9110 §12.5.1), ranks text/plain above JSON.

    JSON wins a tie.
    """
    accept = lines[0] if len(lines) == 1 else ",".join(lines)
    if "text/" not in accept.lower():
        return False
    quality = {"text/plain": -1.0, "application/json": -1.0}
    specific = {"text/plain": -1, "application/json": -1}
    for part in accept[:4096].lower().split(","):
        kind, *parameters = (p.strip() for p in part.split(";"))
        q = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        value = float(q) if re.fullmatch(r"[01](\.[0-9]{0,3})?", q) else 0.0
        for offered in quality:
            ranges = ("*/*", offered.split("/")[0] + "/*", offered)
            rank = ranges.index(kind) if kind in ranges else -1
            if rank > specific[offered]:
                specific[offered], quality[offered] = rank, value
    return quality["text/plain"] > max(quality["application/json"], 0.0) and specific["text/plain"] == _EXACT
