"""Every refusal of access leaves a trace: all are counted, some of each kind are logged and audited. Knows no route.

Whoever is refused chooses how often that happens, so log and audit stream have a limit; the count of what they left out
follows.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from broker.api.request_ids import request_id
from broker.api.requests import peer_of
from broker.model import GRANT_ID

if TYPE_CHECKING:
    from broker.errors import BrokerError
    from broker.process.audit_file import AuditFile
    from broker.process.metrics import Metrics

log = structlog.get_logger()
LOGGED = 10
"""Refusals of one reason that are logged and audited within `WINDOW`."""
WINDOW = 60.0
"""Seconds."""
_OF_GRANTS = 4
"""Segments before what a read asks of a grant: `/v1/grants/{id}/`."""


class Denials:
    """Counts refusals, and logs and audits them within a limit."""

    def __init__(self, metrics: Metrics, audit: AuditFile | None) -> None:
        self._counter = metrics.denied
        self._audit = audit
        self._counts: dict[str, int] = {}

    def note_error(self, request: web.BaseRequest, error: BaseException, grant_id: str | None = None) -> None:
        """Note an error that denied access; any other error is none of its business.

        Args:
            request: what was refused.
            error: why.
            grant_id: what was asked for, where the path does not say it.
        """
        reason = getattr(error, "denied", None)
        if reason is not None:
            denied: BrokerError = error  # type: ignore[assignment]  # only these have the attribute
            self.note(request, reason, caller=denied.caller, grant_id=grant_id)

    def note(
        self, request: web.BaseRequest, reason: str, *, caller: str | None = None, grant_id: str | None = None
    ) -> None:
        """Count one refusal, and log and audit it unless there were many of its *reason* a moment ago."""
        self._counter.labels(reason).inc()
        count = self._counts.get(reason, 0) + 1
        self._counts[reason] = count
        if count == 1:
            asyncio.get_running_loop().call_later(WINDOW, self._begin_anew, reason)
        if count <= LOGGED:
            route, in_path = _asked(request)
            members = {
                "reason": reason,
                "caller": caller or "unknown",
                "peer": peer_of(request),
                "method": request.method,
                "route": route,
                "grant_id": grant_id or in_path,
                "request_id": request_id(request),
            }
            log.warning("access.denied", **members)
            self._keep("access.denied", members)

    def _begin_anew(self, reason: str) -> None:
        left_out = self._counts.pop(reason) - LOGGED
        if left_out > 0:
            members = {"reason": reason, "count": left_out, "seconds": WINDOW}
            log.warning("access.denials_left_out", **members)
            self._keep("access.denials_left_out", members)

    def _keep(self, event: str, members: dict[str, Any]) -> None:
        if self._audit is not None:
            self._audit.write(event, **members)


def _asked(request: web.BaseRequest) -> tuple[str, str | None]:
    """Return the route of a request, without ids and tickets, and the grant in its path."""
    if isinstance(request, web.Request):
        resource = request.match_info.route.resource
        grant_id = request.match_info.get("id", "")
        return resource.canonical if resource else "?", grant_id if GRANT_ID.fullmatch(grant_id) else None
    parts = request.path.split("/")  # a frequent read
    if len(parts) <= _OF_GRANTS:
        return request.path, None
    return f"/v1/grants/{{id}}/{parts[_OF_GRANTS]}", parts[_OF_GRANTS - 1]
