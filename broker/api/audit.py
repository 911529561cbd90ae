"""Who did what to which grant: one `access` event in the log each, and one line of the audit stream where there is one.

Never with a token in it. Reads come by the thousands a second, so they are logged at debug level; everything else at
info. The check of the level before the call saves 9 % of a read's CPU
(`python -m tests.benchmarks.tricks audit-guard`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from broker.api.context import CONTEXT
from broker.api.request_ids import request_id
from broker.api.requests import peer_of
from broker.process import logs

if TYPE_CHECKING:
    from aiohttp import web

    from broker.api.callers import Caller
    from broker.api.context import Context

log = structlog.get_logger()


def token_read(context: Context, request: web.BaseRequest, caller: Caller, grant_id: str, generation: int) -> None:
    """Note that *caller* gets a token, before the response is sent.

    Raises:
        AuditUnavailable: the line would have no room, and must have it.
    """
    if context.audit is not None:
        context.audit.read(caller.name, peer_of(request), grant_id, generation, request_id(request))
    if logs.is_enabled("debug"):
        log.debug("access", did="token.read", caller=caller.name, grant_id=grant_id, generation=generation)


def acted(request: web.Request, caller: Caller | None, did: str, grant_id: str | None = None, **more: Any) -> None:
    """Note what *caller* did to a grant or a provider; None stands for a browser with a login link."""
    name, peer, identity = caller.name if caller else None, peer_of(request), request_id(request)
    log.info("access", did=did, caller=name, peer=peer, grant_id=grant_id, request_id=identity, **more)
    audit = request.app[CONTEXT].audit
    if audit is not None:
        audit.write(did, caller=name, peer=peer, grant_id=grant_id, request_id=identity, **more)
