"""Import in bulk: NDJSON in, NDJSON of outcomes out, streamed, so memory does not grow with the file.

The lines that have arrived together are stored together. The work takes turns with everything else (`turns`).
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from broker.api.context import CONTEXT
from broker.api.ndjson import LineReader
from broker.api.request_ids import HEADER, request_id
from broker.api.requests import (
    BODY_LIMIT,
    INVALID_GRANT_ID,
    authenticate_for,
    invite_body,
    read_pieces,
    require_provider_of,
    require_unencoded,
)
from broker.api.responses import SLOW_BODY, UNREADABLE_BODY
from broker.api.routes.import_one import audit_import, may_name, place_for, read_annotations, read_import, trimmed
from broker.errors import BrokerError, Conflict, InvalidRequest, StoreUnavailable
from broker.model import GRANT_ID
from broker.store import Import

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.api.callers import Caller
    from broker.api.context import Context
    from broker.api.ndjson import Line
    from broker.api.routes import shapes
    from broker.store import Registered


@dataclass(slots=True)
class _Waiting:
    """A line that is to be stored, and what is known of it so far."""

    imported: Import
    outcome: shapes.ImportOutcome


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_post("/v1/import", import_grants)


async def import_grants(request: web.Request) -> web.StreamResponse:
    """`POST /v1/import`: import many grants, one `{"grant_id", "provider", "refresh_token", "scope"?}` a line.

    `owner` and `label` may stand in it too.

    Each line is answered by one line: `{"line", "grant_id", "status"}` (created, replaced, unchanged), or with `error`.
    A line that was imported before changes nothing, so the same file may be sent again.
    """
    caller, context = authenticate_for(request, "admin"), request.app[CONTEXT]
    require_unencoded(request)
    await invite_body(request)
    headers = {"Content-Type": "application/x-ndjson", "Cache-Control": "no-store", HEADER: request_id(request)}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    lines = LineReader(read_pieces(request))
    try:
        async for group in lines.groups():
            async with context.turns.turn():
                outcomes = await _import(request, caller, group)
            await _write(response, outcomes)
    except (web.RequestPayloadError, web.HTTPRequestTimeout) as error:
        outcome: shapes.ImportOutcome = {"line": lines.number + 1, "status": "refused"}
        text = SLOW_BODY if isinstance(error, web.HTTPRequestTimeout) else UNREADABLE_BODY
        await _write(response, [_refused(outcome, InvalidRequest(text))])
        response.force_close()
    await response.write_eof()
    return response


async def _write(response: web.StreamResponse, outcomes: list[shapes.ImportOutcome]) -> None:
    if outcomes:
        await response.write(b"".join([json.dumps(outcome).encode() + b"\n" for outcome in outcomes]))


async def _import(request: web.Request, caller: Caller, lines: Sequence[Line]) -> list[shapes.ImportOutcome]:
    """Import *lines* together, in their order; return what became of each."""
    outcomes: list[shapes.ImportOutcome] = []
    waiting: dict[str, _Waiting] = {}
    context = request.app[CONTEXT]
    is_counted = caller.quota is not None and caller.quota.grants > 0
    for number, raw in lines:
        outcome: shapes.ImportOutcome = {"line": number, "status": "refused"}
        outcomes.append(outcome)
        try:
            imported = _parse(context, caller, raw, outcome)
            await require_provider_of(context, caller, imported.grant_id)
            if is_counted:
                await _store_counted(request, caller, _Waiting(imported, outcome))
        except BrokerError as error:
            context.denials.note_error(request, error, outcome.get("grant_id"))
            _refused(outcome, error)
        else:
            # A later line of a grant follows what the earlier one stored.
            if imported.grant_id in waiting:
                await _store(request, caller, list(waiting.values()))
                waiting.clear()
            if not is_counted:
                waiting[imported.grant_id] = _Waiting(imported, outcome)
        await context.turns.pause()
    if waiting:
        await _store(request, caller, list(waiting.values()))
    return outcomes


def _parse(context: Context, caller: Caller, raw: bytes | None, outcome: shapes.ImportOutcome) -> Import:
    """Return what a line asks for, and add to *outcome* what is known of it.

    Raises:
        InvalidRequest: the line is no import.
        NotAllowed: the caller may not import this grant.
        AuditUnavailable: it could not be audited, and must be.
    """
    if context.audit is not None:
        context.audit.require()
    if raw is None:
        raise InvalidRequest(f"the line is over {BODY_LIMIT // 1024} KiB: one grant needs less")
    try:
        line = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise InvalidRequest("the line is not JSON: send one JSON object a line") from None
    grant_id = line.get("grant_id") if isinstance(line, dict) else None
    if not isinstance(grant_id, str) or not GRANT_ID.fullmatch(grant_id):
        raise InvalidRequest(INVALID_GRANT_ID)
    outcome["grant_id"] = grant_id
    caller.require("admin", grant_id)
    provider, refresh_token, scope = read_import(line, context.endpoints, caller)
    spread = random.uniform(0, context.settings.refresh.import_spread.total_seconds() * 1000)
    due_at = context.store.clock() + int(spread)
    imported = Import(grant_id, provider, refresh_token, scope, due_at=due_at, ownership=read_annotations(line))
    if warning := trimmed(line).get("warning"):
        outcome["warning"] = warning
    return imported


async def _store_counted(request: web.Request, caller: Caller, waiting: _Waiting) -> None:
    """Store one line of a caller with a quota of grants.

    Raises:
        QuotaExceeded: there is no place for it.
    """
    async with place_for(request.app[CONTEXT], caller, waiting.imported.grant_id) as place:
        await _store(request, caller, [waiting])
        if waiting.outcome.get("error") == Conflict.code:
            place.kept = "no"


async def _store(request: web.Request, caller: Caller, waiting: Sequence[_Waiting]) -> None:
    """Store what waits, in one go, and complete its outcomes."""
    context = request.app[CONTEXT]
    try:
        results = await context.store.registry.import_many([each.imported for each in waiting])
    except StoreUnavailable as error:
        results = [error] * len(waiting)
    await context.turns.pause()
    for each, result in zip(waiting, results, strict=True):
        holder = None if isinstance(result, StoreUnavailable) else result.holder
        if await may_name(context, caller, holder):
            each.outcome["holder"] = holder or ""
        _complete(request, caller, each, result)
    for provider in {each.imported.provider for each in waiting if each.outcome["status"] in {"created", "replaced"}}:
        context.scheduler.wake(provider)


def _complete(request: web.Request, caller: Caller, waiting: _Waiting, result: Registered | StoreUnavailable) -> None:
    outcome, grant_id = waiting.outcome, waiting.imported.grant_id
    if isinstance(result, StoreUnavailable):
        _refused(outcome, result)
    elif result.status == "leased":
        _refused(outcome, Conflict("a refresh of this grant is in flight: send the line again"))
    elif result.status == "held":
        _refused(outcome, Conflict("another grant holds this refresh token: use that grant, or delete it first"))
    elif result.status == "outdated":  # a file that is sent again: a later line of it replaced this one
        outcome["status"] = "unchanged"
    else:
        audit_import(request, caller, grant_id, result)
        outcome["status"] = result.status


def _refused(outcome: shapes.ImportOutcome, error: BrokerError) -> shapes.ImportOutcome:
    outcome["error"], outcome["error_description"] = error.code, str(error)
    return outcome
