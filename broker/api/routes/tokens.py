"""What services read: the current token of a grant, and "this one got a 401"."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from aiohttp import hdrs, web
from multidict import istr

from broker.api import audit
from broker.api.app import API, by_session, caller_of, error_answer, grant_id_of
from broker.api.cached_responses import applied, token_headers
from broker.errors import InvalidRequest, NotAllowed, UnknownKey
from broker.read.reader import DEFAULT_WAIT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.api.app import Api
    from broker.api.callers import Caller, Right
    from broker.model import Token

LONGEST_WAIT = 55.0
"""Seconds: below the 60 s after which common proxies give up."""
_PREFER = istr("Prefer")
_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})(?![0-9.])\"?", re.IGNORECASE)
_PREFER_MINIMAL = re.compile(r"(?:^|[,;\s])return\s*=\s*\"?minimal\"?(?![a-z])", re.IGNORECASE)
_ETAG = re.compile(r'^\s*(?:W/)?"([0-9]{1,64})"\s*$')


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_get("/v1/grants/{id}/token", _get_token)
    router.add_post("/v1/grants/{id}/refresh", refresh)


async def get_token(api: Api, request: web.BaseRequest, grant_id: str, min_ttl: str | None) -> web.StreamResponse:
    """`GET /v1/grants/{id}/token`: return the current token; long-poll with `If-None-Match` and `Prefer: wait`."""
    headers, reader = request.headers, api.reader
    caller = admitted(api, headers, "read", grant_id)
    min_ttl_ms = _min_ttl_ms(min_ttl)
    if min_ttl_ms:
        caller.require("refresh", grant_id)
    wait = preferred_wait(request)
    token = reader.at_hand(grant_id, min_ttl_ms) or await reader.current(
        grant_id, min_ttl_ms=min_ttl_ms, wait=DEFAULT_WAIT if wait is None else wait
    )
    if _matches(headers.get(hdrs.IF_NONE_MATCH), token):
        newer = await reader.newer(grant_id, token.generation, wait) if wait else None
        if newer is None:
            return api.answers.unchanged.to(request, token, wait)
        token = newer
    audit.token_read(caller, grant_id, token.generation)
    return render(api, request, token, wait)


@functools.wraps(get_token)
async def _get_token(request: web.Request) -> web.StreamResponse:
    return await get_token(request.app[API], request, grant_id_of(request), request.query.get("min_ttl"))


async def refresh(request: web.Request) -> web.StreamResponse:
    """`POST /v1/grants/{id}/refresh`: report an API's 401 to the token named by `If-Match`; return the next one.

    With `Prefer: return=minimal` (RFC 7240 §4.2), and to the status page always, the response is 204 without the token.
    """
    api, grant_id, paged = request.app[API], grant_id_of(request), by_session(request)
    caller = caller_of(request) if paged else admitted(api, request.headers, "refresh", grant_id)
    caller.require("refresh", grant_id)
    condition = request.headers.get("If-Match")
    if condition is None:
        return error_answer(
            428, "precondition_required", 'name the token that got the 401: If-Match: "GENERATION", its ETag'
        )
    match = _ETAG.match(condition)
    if match is None:
        raise InvalidRequest('If-Match must be one ETag of ours, such as "1764000000000"')
    wait, reported = preferred_wait(request), int(match[1])
    audit.acted(caller, "refresh.reported", grant_id, generation=reported)
    token = await api.reader.refreshed(grant_id, reported, DEFAULT_WAIT * 2 if wait is None else wait)
    if paged or _PREFER_MINIMAL.search(",".join(request.headers.getall(_PREFER, ()))):
        return web.Response(status=204, headers={**token_headers(token), "Preference-Applied": "return=minimal"})
    audit.token_read(caller, grant_id, token.generation)
    return render(api, request, token, wait)


def admitted(api: Api, headers: Mapping[str, str], right: Right, grant_id: str) -> Caller:
    """Who asks, with *right* on the grant. Raises what refuses (`UnknownKey`, `NotAllowed`), and counts it."""
    try:
        caller = api.callers.of(headers)
        caller.require(right, grant_id)
    except (NotAllowed, UnknownKey):
        api.metrics.token_requests.labels("denied").inc()
        raise
    return caller


def render(api: Api, request: web.BaseRequest, token: Token, wait: float | None) -> web.StreamResponse:
    """A token answer, as JSON or, where the caller would rather have it, as the bare token."""
    if prefers_text(request.headers.getall(hdrs.ACCEPT, ())):
        text = token.access_token.reveal()
        headers = {**token_headers(token), **applied(wait)}
        return web.Response(body=text.encode(), content_type="text/plain", headers=headers)
    return api.answers.token.to(request, token, wait)


def _matches(condition: str | None, token: Token) -> bool:
    if condition is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in condition.split(",")]
    return "*" in tags or f'"{token.generation}"' in tags


def preferred_wait(request: web.BaseRequest) -> float | None:
    """Seconds of `Prefer: wait` (RFC 7240 §4.3), at most `LONGEST_WAIT`; None when not or not sensibly given."""
    if _PREFER not in request.headers:
        return None
    match = _PREFER_WAIT.search(",".join(request.headers.getall(_PREFER)))
    return min(float(match[1]), LONGEST_WAIT) if match else None


def _min_ttl_ms(raw: str | None) -> int:
    if raw is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", raw):
        raise InvalidRequest("min_ttl must be seconds, 0 or more, such as min_ttl=60")
    return int(float(raw) * 1000)


def prefers_text(lines: Sequence[str]) -> bool:
    """Whether `Accept`, in one line or several (RFC 9110 §12.5.1), ranks text/plain above JSON; JSON wins a tie."""
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
            rank = 2 if kind == offered else 1 if kind == offered.split("/")[0] + "/*" else 0 if kind == "*/*" else -1
            if rank > specific[offered]:
                specific[offered], quality[offered] = rank, value
    return quality["text/plain"] > max(quality["application/json"], 0.0) and specific["text/plain"] == 2
