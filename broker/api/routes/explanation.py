"""A grant in sentences: why it is in its state, what happens next, and what a person must do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.api.context import CONTEXT
from broker.api.requests import authenticate, read_grant_id, require_provider_of
from broker.api.responses import json_response
from broker.api.routes.attempts import describe_past
from broker.api.routes.grants import describe
from broker.api.routes.providers import describe_provider
from broker.api.routes.verdict import read_zone
from broker.errors import StoreUnavailable, UnknownGrant
from broker.report.attempts import decision, outcome
from broker.report.explanation import explain, explain_from_memory

if TYPE_CHECKING:
    from datetime import tzinfo

    from aiohttp import web

    from broker.api.context import Context
    from broker.api.routes import report_shapes as shapes
    from broker.report.explanation import Explanation


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_get("/v1/grants/{id}/explanation", get_explanation)


async def get_explanation(request: web.Request) -> web.Response:
    """`GET /v1/grants/{id}/explanation`: explain a grant in sentences: why, what happens next, what a person must do.

    Answers from memory, as far as that goes, while Redis does not answer.
    """
    grant_id, caller, context = read_grant_id(request), authenticate(request), request.app[CONTEXT]
    caller.require("view", grant_id)
    await require_provider_of(context, caller, grant_id)
    zone = read_zone(request)
    try:
        return json_response(await _explain(context, grant_id, zone))
    except StoreUnavailable as error:
        return json_response(_explain_from_memory(context, grant_id, error, zone))


async def _explain(context: Context, grant_id: str, zone: tzinfo | None) -> shapes.Explanation:
    store = context.store
    grant, described, provider = await store.grants.get(grant_id), None, None
    if grant is not None:
        state, grant = await store.grants.placed(grant)
        described = describe(grant, state, soon=context.notifier.ends_soon(grant), now=store.clock())
        (health,) = await store.grants.providers([grant.provider])
        provider = describe_provider(context.endpoints.get(grant.provider), health)
    past = await store.attempts.for_grant(grant_id, grant)
    if grant is None and past.forgotten_at is None:
        raise UnknownGrant("no such grant")
    now = store.clock()
    remembered = describe_past(grant_id, past, now)
    answer = _answer(grant_id, explain(grant_id, described, remembered, provider, now // 1000, zone=zone), now // 1000)
    answer["attempts"] = [
        {**attempt, "meaning": outcome(attempt), "decision": decision(attempt, now // 1000, zone)}
        for attempt in remembered["attempts"]
    ]
    if described is not None:
        answer["state_words"] = described["state_words"]
        answer["account"], answer["owner"], answer["label"] = (
            described["account"],
            described["owner"],
            described["label"],
        )
    return answer


def _explain_from_memory(
    context: Context, grant_id: str, error: StoreUnavailable, zone: tzinfo | None
) -> shapes.Explanation:
    now, expires_at = context.store.clock() // 1000, context.verdicts.end_in_memory(grant_id)
    trouble = context.verdicts.trouble(error)
    return _answer(grant_id, explain_from_memory(grant_id, trouble, expires_at, now, zone=zone), now)


def _answer(grant_id: str, explanation: Explanation, now: int) -> shapes.Explanation:
    return {
        "grant_id": grant_id,
        "now": now,
        "state_words": None,
        "why": explanation.why,
        "next": explanation.next,
        "next_at": explanation.next_at,
        "person": explanation.person,
        "command": explanation.command,
        "exit_code": explanation.exit_code,
        "account": None,
        "owner": None,
        "label": None,
        "attempts": [],
    }
