"""The verdict on the broker: how many grants have no valid token, why, what happens next, what a person must do."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta, timezone
from typing import TYPE_CHECKING

from broker.api.context import CONTEXT
from broker.api.requests import authenticate_for
from broker.api.responses import json_response
from broker.errors import InvalidRequest
from broker.report.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

    from aiohttp import web

    from broker.api.callers import Caller
    from broker.api.routes import report_shapes as shapes
    from broker.api.verdict import Verdicts
    from broker.report.cause import Cause
    from broker.report.facts import Facts
    from broker.report.verdict import Verdict

_DAY_MIN = 24 * 60


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_get("/v1/verdict", get_verdict)


async def get_verdict(request: web.Request) -> web.Response:
    """`GET /v1/verdict`: judge how the broker is: grants without a valid token, why, what happens next, what to do.

    Answers from memory, within a second, while Redis does not answer. Times in sentences are of the zone *utc_offset*.
    """
    caller = authenticate_for(request, "view", audited=False)  # it says why all else is refused
    zone = read_zone(request)
    facts = await _of_caller(request.app[CONTEXT].verdicts, caller)
    return json_response(describe(judge(facts, zone), lambda grant_id: caller.may("view", grant_id)))


async def _of_caller(verdicts: Verdicts, caller: Caller) -> Facts:
    """Return the facts without the providers that are none of the caller's, and without their grants."""
    facts = await verdicts.facts()
    if caller.providers is None:
        return facts
    known = None if facts.providers is None else [each for each in facts.providers if caller.may_use(each.name)]
    return replace(
        facts,
        providers=known,
        grants=[each for each in facts.grants if caller.may_use(each.provider)],
        lost=(),  # of whose provider they were is not known
        memory=await verdicts.memory(facts.now, caller.may_use),
    )


def read_zone(request: web.Request) -> tzinfo | None:
    """Return the zone that the request asks for, by minutes east of UTC; None: this machine's.

    Raises:
        InvalidRequest: no zone is so far from UTC.
    """
    text = request.query.get("utc_offset")
    if text is None:
        return None
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 4 and int(digits) < _DAY_MIN):
        raise InvalidRequest("utc_offset is not a number of minutes: send those east of UTC, such as utc_offset=120")
    return timezone(timedelta(minutes=int(text)))


def describe(verdict: Verdict, permitted: Callable[[str], bool]) -> shapes.Verdict:
    """Return a verdict as JSON members, with the ids of those grants that are *permitted* to the caller."""
    open_to_caller = all(permitted(grant_id) for cause in verdict.causes for grant_id in cause.examples)
    return {
        "status": verdict.status,
        "summary": verdict.summary if open_to_caller else verdict.public_summary,
        "at": verdict.at,
        "grants": verdict.grants,
        "alive": verdict.alive,
        "unserved": verdict.unserved,
        "next_end_at": verdict.next_end_at,
        "causes": [_describe_cause(cause, permitted) for cause in verdict.causes],
        "providers": {
            name: {"grants": grants, "unserved": unserved} for name, (grants, unserved) in verdict.providers.items()
        },
        "memory": {
            "tokens": verdict.memory.tokens,
            "first_end_at": verdict.memory.first_end_at,
            "last_end_at": verdict.memory.last_end_at,
        },
    }


def _describe_cause(cause: Cause, permitted: Callable[[str], bool]) -> shapes.Cause:
    examples = [grant_id for grant_id in cause.examples if permitted(grant_id)]
    return {
        "kind": cause.kind,
        "provider": cause.provider,
        "sentence": cause.sentence,
        "since": cause.since,
        "grants": cause.grants,
        "unserved": cause.unserved,
        "next": cause.next,
        "next_at": cause.next_at,
        "action": cause.action if len(examples) == len(cause.examples) else cause.public_action or cause.action,
        "examples": examples,
    }
