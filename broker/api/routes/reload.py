"""Have the broker read its settings again: `POST /v1/reload`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.api import audit
from broker.api.context import CONTEXT
from broker.api.requests import authenticate_admin_of_all
from broker.api.responses import json_response
from broker.api.routes import shapes
from broker.errors import Conflict, InvalidSettings

if TYPE_CHECKING:
    from aiohttp import web


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_post("/v1/reload", reload)


async def reload(request: web.Request) -> web.Response:
    """`POST /v1/reload`: read the settings again as SIGHUP does; return what was taken up and what needs a restart.

    Wrong settings change nothing: 409 `invalid_settings`, with one finding a line.
    """
    admin, context = authenticate_admin_of_all(request, "settings concern all of them"), request.app[CONTEXT]
    audit.acted(request, admin, "settings.reload")
    try:
        reloaded = await context.reload()
    except InvalidSettings as error:
        raise Conflict(str(error), code=error.code) from None
    answer = shapes.Reloaded(
        providers_added=list(reloaded.providers.added),
        providers_changed=list(reloaded.providers.changed),
        providers_removed=list(reloaded.providers.removed),
        callers_added=list(reloaded.caller_changes.added),
        callers_changed=list(reloaded.caller_changes.changed),
        callers_removed=list(reloaded.caller_changes.removed),
        changed=list(reloaded.keys),
        callers=list(reloaded.callers),
        log_level=reloaded.log_level,
        needs_restart=list(reloaded.needs_restart),
    )
    return json_response(answer)
