"""What Prometheus scrapes: `/metrics`."""

from __future__ import annotations

from aiohttp import web

from broker.api.context import CONTEXT

_HEADERS = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8", "Cache-Control": "no-store"}


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_get("/metrics", metrics)


async def metrics(request: web.Request) -> web.Response:
    """`GET /metrics`: report grants, providers and this broker, for Prometheus."""
    return web.Response(body=await request.app[CONTEXT].exposition.text(), headers=_HEADERS)
