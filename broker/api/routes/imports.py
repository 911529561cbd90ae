"""Import in bulk: NDJSON in, NDJSON of outcomes out, streamed, so memory does not grow with the file."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

from aiohttp import web

from broker.api.context import CONTEXT
from broker.api.requests import BODY_LIMIT, INVALID_GRANT_ID, authenticate_admin, invite_body, require_unencoded
from broker.api.responses import UNREADABLE_BODY
from broker.api.routes.grants import audit_import, read_annotations, read_import, trimmed
from broker.errors import BrokerError, Conflict, InvalidRequest
from broker.model import GRANT_ID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.api.callers import Caller
    from broker.api.context import Context
    from broker.api.routes import shapes


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_post("/v1/import", import_grants)


async def import_grants(request: web.Request) -> web.StreamResponse:
    """`POST /v1/import`: import many grants, one `{"grant_id", "provider", "refresh_token", "scope"?}` a line.

    `owner` and `label` may stand in it too.

    Each line is answered by one line: `{"line", "grant_id", "status"}` (created, replaced, unchanged), or with `error`.
    A line that was imported before changes nothing, so the same file may be sent again.
    """
    caller, context = authenticate_admin(request), request.app[CONTEXT]
    require_unencoded(request)
    await invite_body(request)
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
    await response.prepare(request)
    number = 0
    try:
        async for raw in _lines(request):
            number += 1
            if raw is None or raw.strip():
                await _write(response, await _import_line(context, caller, number, raw))
    except web.RequestPayloadError:
        await _write(response, _refused({"line": number + 1, "status": "refused"}, InvalidRequest(UNREADABLE_BODY)))
    await response.write_eof()
    return response


async def _write(response: web.StreamResponse, outcome: shapes.ImportOutcome) -> None:
    await response.write(json.dumps(outcome).encode() + b"\n")


async def _import_line(context: Context, caller: Caller, number: int, raw: bytes | None) -> shapes.ImportOutcome:
    try:
        return await _import(context, caller, number, raw)
    except BrokerError as error:
        return _refused({"line": number, "status": "refused"}, error)


async def _import(context: Context, caller: Caller, number: int, raw: bytes | None) -> shapes.ImportOutcome:
    if raw is None:
        raise InvalidRequest(f"the line is over {BODY_LIMIT // 1024} KiB: one grant needs less")
    try:
        line = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise InvalidRequest("the line is not JSON: send one JSON object a line") from None
    grant_id = line.get("grant_id") if isinstance(line, dict) else None
    if not isinstance(grant_id, str) or not GRANT_ID.fullmatch(grant_id):
        raise InvalidRequest(INVALID_GRANT_ID)
    outcome: shapes.ImportOutcome = {"line": number, "grant_id": grant_id, "status": "refused"}
    try:
        caller.require("admin", grant_id)
        provider, refresh_token, scope = read_import(line, context.endpoints)
        spread = random.uniform(0, context.settings.refresh.import_spread.total_seconds() * 1000)
        due_at = context.store.clock() + int(spread)
        registered = await context.store.registry.import_(
            grant_id, provider, refresh_token, scope, due_at=due_at, ownership=read_annotations(line)
        )
    except BrokerError as error:
        return _refused(outcome, error)
    outcome = {**outcome, **trimmed(line)}
    if registered.status == "leased":
        return _refused(outcome, Conflict("a refresh of this grant is in flight: send the line again"))
    if registered.status == "held":
        outcome["holder"] = registered.holder or ""
        return _refused(outcome, Conflict("another grant holds this refresh token: use that grant, or delete it first"))
    audit_import(caller, grant_id, registered)
    if registered.status == "outdated":
        return {**outcome, "status": "unchanged"}  # a file that is sent again: a later line of it replaced this one
    context.scheduler.wake(provider)
    return {**outcome, "status": registered.status}


def _refused(outcome: shapes.ImportOutcome, error: BrokerError) -> shapes.ImportOutcome:
    return {**outcome, "error": error.code, "error_description": str(error)}


async def _lines(request: web.Request) -> AsyncIterator[bytes | None]:
    """Yield the body's lines; None for a line that is too long."""
    rest, skipping = b"", False
    async for chunk in request.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield None if skipping or len(line) > BODY_LIMIT else line
            skipping = False
        if len(rest) > BODY_LIMIT:
            rest, skipping = b"", True
    if rest or skipping:
        yield None if skipping else rest
