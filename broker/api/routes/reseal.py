"""Sealing anew: `POST /v1/sealing/reseal`."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from broker.api import audit
from broker.api.context import CONTEXT
from broker.api.requests import authenticate_admin, read_optional_json
from broker.api.responses import json_response
from broker.errors import Conflict, InvalidRequest, NotAllowed
from broker.process.data_dir import sealing_keys
from broker.secret import Sealer
from broker.store.grants import FOREIGN_CURSOR

if TYPE_CHECKING:
    from aiohttp import web

    from broker.api.context import Context

_BUDGET = 3.0
"""Seconds of work for one request; what is left is for the next."""
_MOST_PASSES = 5
_CURSOR = re.compile(r"([1-9])~([01])~(.*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Walk:
    """Where the resealing stands: which pass over all keys, whether it found anything, and its page."""

    number: int = 1
    found: bool = False
    cursor: str | None = None

    @classmethod
    def read(cls, cursor: str | None) -> _Walk:
        if cursor is None:
            return cls()
        read = _CURSOR.fullmatch(cursor)
        if read is None:
            raise InvalidRequest(FOREIGN_CURSOR)
        return cls(int(read[1]), read[2] == "1", read[3] or None)

    def __str__(self) -> str:
        return f"{self.number}~{int(self.found)}~{self.cursor or ''}"


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_post("/v1/sealing/reseal", reseal)


async def reseal(request: web.Request) -> web.Response:
    """`POST /v1/sealing/reseal` `{"cursor"?}`: seal all that is stored with the first key, a few seconds' work at once.

    `next` is the cursor to go on with. It is null when a whole pass found nothing left to do: then `old_keys_may_go`
    says whether any other key is still needed, and `detail` what to do.
    """
    admin, context = authenticate_admin(request), request.app[CONTEXT]
    if not admin.administers_all:
        raise NotAllowed(
            f'caller {admin.name!r} is not admin of every grant (admin = ["*"]), and resealing is for all of them'
        )
    cursor = (await read_optional_json(request, "cursor?")).get("cursor")
    if cursor is not None and not isinstance(cursor, str):
        raise InvalidRequest(FOREIGN_CURSOR)
    walk = _Walk.read(cursor)
    await asyncio.to_thread(_same_keys, context)
    if cursor is None:
        audit.acted(admin, "sealing.resealing")
    counts, walk = await _work(context, walk)
    body = {"pass": walk.number, **counts, "next": None if walk.cursor == "" else str(walk)}
    if body["next"] is None:
        body |= await _end(context, counts["unreadable"])
        audit.acted(admin, "sealing.resealed", old_keys_may_go=body["old_keys_may_go"])
    return json_response(body)


def _same_keys(context: Context) -> None:
    """Refuse to work with other keys than the file holds by now: that would seal with the one that is to go."""
    if Sealer(sealing_keys(context.settings)).first != context.store.sealer.first:
        raise Conflict(
            "sealing.keys_file begins with another key than it did when this broker started: restart every broker, "
            "then reseal"
        )


async def _work(context: Context, walk: _Walk) -> tuple[dict[str, Any], _Walk]:
    """Pages from *walk* on until the time is up, or a pass ended that found nothing (its cursor is "" then)."""
    counts: dict[str, Any] = {"grants": 0, "grants_resealed": 0, "logins_resealed": 0, "unreadable": []}
    until = time.monotonic() + _BUDGET
    while True:
        page = await context.store.resealing.page(walk.cursor)
        if page.restarted:
            walk = replace(walk, found=True)  # what the pass had seen is not all there is now
        counts["grants"] += page.grants
        counts["grants_resealed"] += page.grants_resealed
        counts["logins_resealed"] += page.logins_resealed
        counts["unreadable"] = sorted({*counts["unreadable"], *page.unreadable})
        found = walk.found or page.canary_resealed or bool(page.grants_resealed or page.logins_resealed)
        walk = _Walk(walk.number, found, page.next)
        if page.next is None:
            if not found:
                return counts, replace(walk, cursor="")
            if walk.number == _MOST_PASSES:
                raise Conflict(
                    "values sealed with another key keep coming: another broker still seals with it; restart every "
                    "broker with the new key first, then reseal again"
                )
            walk = _Walk(walk.number + 1)
        if time.monotonic() > until:
            return counts, walk


async def _end(context: Context, unreadable: list[str]) -> dict[str, Any]:
    """What a finished resealing means for the other keys."""
    on_disk = await context.store.resealing.on_disk()
    if unreadable:
        detail = (
            f"{len(unreadable)} grants are sealed with a key that sealing.keys_file does not hold "
            f"({', '.join(unreadable[:3])}): put that key back, or log them in again, then reseal again"
        )
    elif not on_disk:
        detail = (
            "all is sealed with the first key, but nothing proves that Redis has it on its disk: keep the other keys "
            "until it saved (appendonly yes makes that sure), then reseal again"
        )
    else:
        detail = (
            "all that Redis holds is sealed with the first key: the other keys may go from sealing.keys_file, once "
            "every broker was restarted with the new key first (each seals its own journal anew at its start); keep "
            "them as long as you keep backups that they opened"
        )
    return {"old_keys_may_go": on_disk and not unreadable, "detail": detail}
