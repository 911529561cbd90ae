"""The last token requests of a grant, their outcomes, and what is planned: what `explain` reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.api.context import CONTEXT
from broker.api.requests import permit
from broker.api.responses import json_response
from broker.errors import UnknownGrant

if TYPE_CHECKING:
    from aiohttp import web

    from broker.api.routes import shapes
    from broker.store.attempts import Past


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_get("/v1/grants/{id}/attempts", list_attempts)


async def list_attempts(request: web.Request) -> web.Response:
    """`GET /v1/grants/{id}/attempts`: list the last token requests, their outcomes, and what is planned.

    A grant that was forgotten within the last month has no attempts, but `forgotten_at`; one whose data
    Redis lost has `lost_at`.
    """
    grant_id, _ = await permit(request, "view")
    store = request.app[CONTEXT].store
    grant = await store.grants.get(grant_id)
    past = await store.attempts.for_grant(grant_id, grant)
    if grant is None and past.forgotten_at is None and past.lost_at is None:
        raise UnknownGrant("no such grant")
    return json_response(describe_past(grant_id, past, store.clock()))


def describe_past(grant_id: str, past: Past, now: int) -> shapes.Attempts:
    """Return a grant's past as JSON members.

    Args:
        grant_id: the grant.
        past: its past.
        now: epoch ms by Redis's clock, which gave all the times in *past*.
    """
    return {
        "grant_id": grant_id,
        "now": now // 1000,
        "attempts": [
            {
                "at": attempt.at // 1000,
                "replica": attempt.replica,
                "outcome": attempt.outcome,
                "error": attempt.error or None,
                "error_description": attempt.error_description or None,
                "decided": attempt.decided,
                "next_at": _seconds(attempt.next_at),
            }
            for attempt in past.attempts
        ],
        "under_way": {"at": past.under_way[0] // 1000, "replica": past.under_way[1]} if past.under_way else None,
        "unknown_at": _seconds(past.unknown_at),
        "next_at": _seconds(past.next_at),
        "fenced_until": _seconds(past.fenced_until),
        "forgotten_at": _seconds(past.forgotten_at),
        "lost_at": _seconds(past.lost_at),
    }


def _seconds(at: int | None) -> int | None:
    return None if at is None else at // 1000
