"""What supervisors and load balancers ask: `/healthz`, `/readyz` and `/readyz/{id}`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from broker.api.context import CONTEXT
from broker.api.requests import permit
from broker.api.responses import json_response
from broker.api.routes import report_shapes, shapes
from broker.errors import BrokerError, UnknownGrant

if TYPE_CHECKING:
    from aiohttp import web

    from broker.api.health import Check, Report


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_get("/healthz", healthz)
    router.add_get("/readyz", readyz)
    router.add_get("/readyz/{id}", readyz_grant)


async def healthz(request: web.Request) -> web.Response:
    """`GET /healthz`: report every check, and the verdict; 200 as long as every loop makes progress."""
    context = request.app[CONTEXT]
    report, verdict = await asyncio.gather(context.health.report(), context.verdicts.recent())
    return _render(report, report_shapes.PublicVerdict(status=verdict.status, summary=verdict.public_summary))


async def readyz(request: web.Request) -> web.Response:
    """`GET /readyz`: report whether a caller could be served; 200 when it could."""
    return _render(await request.app[CONTEXT].health.report_readiness())


async def readyz_grant(request: web.Request) -> web.Response:
    """`GET /readyz/{id}`: report whether a live token of the grant can be read now; 200 when it can."""
    grant_id, _ = await permit(request, "read")
    try:
        token = await request.app[CONTEXT].reader.current(grant_id, wait=0)
    except UnknownGrant:
        raise
    except BrokerError as error:
        unready = shapes.GrantNotReady(status="failed", error=error.code, error_description=str(error))
        return json_response(unready, status=503)
    ready = shapes.GrantReady(status="ok", generation=token.generation, expires_at=token.expires_at // 1000)
    return json_response(ready)


def _render(report: Report, verdict: report_shapes.PublicVerdict | None = None) -> web.Response:
    checks = {name: _describe(check) for name, check in report.checks.items()}
    body = report_shapes.Health(status=report.status, checks=checks)
    if verdict is not None:
        body["verdict"] = verdict
    return json_response(body, status=503 if report.failed else 200)


def _describe(check: Check) -> report_shapes.Check:
    status: Literal["ok", "degraded", "unknown"] = "degraded" if not check.ok else "ok" if check.known else "unknown"
    return {"status": status, "since": check.since, "detail": check.detail}
