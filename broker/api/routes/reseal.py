"""Reseal what is stored: `POST /v1/sealing/reseal`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.api import audit
from broker.api.context import CONTEXT
from broker.api.requests import authenticate_admin_of_all, read_optional_json
from broker.api.responses import json_response
from broker.errors import InvalidRequest
from broker.store.cursor import FOREIGN_CURSOR
from broker.store.reseal_walk import Position, conclude, require_same_keys, walk

if TYPE_CHECKING:
    from aiohttp import web

    from broker.api.routes import shapes


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_post("/v1/sealing/reseal", reseal)


async def reseal(request: web.Request) -> web.Response:
    """`POST /v1/sealing/reseal` `{"cursor"?}`: seal all that is stored with the first key, for a few seconds.

    `next` is the cursor to continue with. It is null when a whole pass found nothing left to reseal: then
    `old_keys_may_go` says whether any other key is still needed, and `detail` what to do.
    """
    admin, context = authenticate_admin_of_all(request, "resealing concerns all of them"), request.app[CONTEXT]
    cursor = (await read_optional_json(request, "cursor?")).get("cursor")
    if cursor is not None and not isinstance(cursor, str):
        raise InvalidRequest(FOREIGN_CURSOR)
    position = Position.parse(cursor)
    await asyncio.to_thread(require_same_keys, context.settings, context.store.sealer)
    if cursor is None:
        audit.acted(request, admin, "sealing.resealing")
    step = await walk(context.store.resealing, position)
    body: shapes.Resealed = {
        "pass": step.position.number,
        "grants": step.grants,
        "grants_resealed": step.grants_resealed,
        "logins_resealed": step.logins_resealed,
        "unreadable": sorted(step.unreadable),
        "next": None if step.next is None else str(step.next),
    }
    if step.next is None:
        end = await conclude(context.store.resealing, step.unreadable)
        body |= {"old_keys_may_go": end.old_keys_may_go, "detail": end.detail}
        audit.acted(request, admin, "sealing.resealed", old_keys_may_go=end.old_keys_may_go)
    return json_response(body)
