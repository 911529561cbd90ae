"""The last day of the providers, for the picture on the status page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.api.context import CONTEXT
from broker.api.requests import authenticate_for
from broker.api.responses import json_response
from broker.api.routes import report_shapes as shapes
from broker.errors import InvalidRequest
from broker.store.day import QUARTER_MS, QUARTERS

if TYPE_CHECKING:
    from aiohttp import web

MOST = 100
"""Providers in one response."""


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_get("/v1/history", list_days)


async def list_days(request: web.Request) -> web.Response:
    """`GET /v1/history?provider=`: return the last day of each *provider*, by quarters of an hour.

    Without *provider* it is the first hundred of the settings.
    """
    caller, context = authenticate_for(request, "view"), request.app[CONTEXT]
    names = request.query.getall("provider", None) or sorted(filter(caller.may_use, context.endpoints))[:MOST]
    for name in names:
        caller.require_provider(name)
    if len(names) > MOST:
        raise InvalidRequest(f"{len(names)} providers are too many: name at most {MOST}")
    now = context.store.clock()
    days = await context.store.day.for_providers(names, now)
    return json_response(
        shapes.Days(
            begins_at=(now // QUARTER_MS - QUARTERS + 1) * QUARTER_MS // 1000,
            providers=[
                shapes.Day(
                    provider=name,
                    refreshed=[quarter.refreshed for quarter in day],
                    failed=[quarter.failed for quarter in day],
                    unserved=[quarter.unserved for quarter in day],
                )
                for name, day in days.items()
            ],
        )
    )
