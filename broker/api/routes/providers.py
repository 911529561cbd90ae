"""What operators do with providers: list them, retry one; and test notices."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from broker.api import audit
from broker.api.context import CONTEXT
from broker.api.requests import (
    authenticate_admin_of_all,
    authenticate_for,
    require_provider,
)
from broker.api.responses import json_response
from broker.api.routes import shapes
from broker.api.routes.grants import all_providers
from broker.process.tasks import finish
from broker.refresh import retry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

    from broker.api.callers import Caller
    from broker.providers import Endpoint
    from broker.store import ProviderState
    from broker.store.history import Minute


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_get("/v1/providers", list_providers)
    router.add_post("/v1/providers/{name}/retry", retry_provider)
    router.add_post("/v1/notify/test", test_notices)


async def list_providers(request: web.Request) -> web.Response:
    """`GET /v1/providers`: list providers, each with its last hour, grants by state, and why it is suspended."""
    caller, context = authenticate_for(request, "view"), request.app[CONTEXT]
    names = await all_providers(context, caller)
    states = await context.store.history.with_last_answers(await context.store.grants.providers(names))
    history = await context.store.history.for_providers(names, context.store.clock())
    endpoints = {state.name: context.endpoints.get(state.name) for state in states}

    def respond() -> web.Response:
        return json_response(
            shapes.Providers(
                providers=[describe_provider(endpoints[state.name], state, history[state.name]) for state in states]
            )
        )

    return await asyncio.to_thread(respond)  # a thousand providers have 3 MiB, and no caller should wait for them


def describe_provider(
    endpoint: Endpoint | None, state: ProviderState, history: Iterable[Minute] = ()
) -> shapes.Provider:
    """Return a provider as JSON members: of its settings, its health, and its last hour."""
    return {
        "provider": state.name,
        "kind": endpoint.dialect.kind if endpoint else None,
        "suspended": state.suspended,
        "suspended_at": state.suspended_at // 1000 if state.suspended_at else None,
        "not_before": state.not_before // 1000 if state.not_before else None,
        "failures": state.ailing,
        "answered_at": state.answered_at // 1000 if state.answered_at else None,
        "reuse_grace": _grace(endpoint) if endpoint else None,
        "detail": state.detail,
        "grants": dict(state.counts),
        "history": [{"at": m.at // 1000, "refreshed": m.refreshed, "failed": m.failed} for m in history],
    }


def _grace(endpoint: Endpoint) -> float | Literal["forever"]:
    """Return for how long a spent refresh token may be presented again: seconds, or "forever"."""
    grace = endpoint.dialect.reuse_grace_ms
    return "forever" if grace is None else grace / 1000


async def retry_provider(request: web.Request) -> web.Response:
    """`POST /v1/providers/{name}/retry`: resume a suspended provider and retry its parked grants.

    A grant that needs a new login stays parked, unless the breaker counted its refusal: retry such grants one by one.
    """
    reason = "a provider is retried for all of them, so retry grant by grant"
    admin, context = authenticate_admin_of_all(request, reason, of_providers=True), request.app[CONTEXT]
    name = require_provider(request.match_info["name"], context.endpoints, admin)
    retried = await finish(_retry_provider(request, admin, name))
    return json_response(shapes.ProviderRetried(provider=name, grants_taken_up=retried), status=202)


async def _retry_provider(request: web.Request, admin: Caller, name: str) -> int:
    context = request.app[CONTEXT]
    retried = await retry.retry_provider(context.store, context.scheduler, name)
    audit.acted(request, admin, "provider.retried", provider=name, grants_taken_up=retried)
    return retried


async def test_notices(request: web.Request) -> web.Response:
    """`POST /v1/notify/test`: send a test notice by every channel to people; return what each receiver answered."""
    admin = authenticate_admin_of_all(request, "notices are about all of them")
    tested = await finish(request.app[CONTEXT].notifier.test())
    audit.acted(request, admin, "notices.tested", told=[result.channel for result in tested if result.delivered])
    ways = [shapes.WayTested(way=each.channel, told=each.delivered, detail=each.detail) for each in tested]
    return json_response(shapes.NoticesTested(ways=ways))
