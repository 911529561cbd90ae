"""A browser that looks ahead: real Chromium, told by speculation rules to fetch a login link before anybody clicks."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from redis.asyncio import Redis

from broker.api.routes import login
from broker.sandbox import Sandbox
from tests.conftest import RunningBroker
from tests.serving import serving
from tests.waiting import until


@pytest.fixture
async def page_with() -> AsyncIterator[Callable[[str], Any]]:
    """Serve a page, as a chat or a mail program would show a link; yield its address."""
    served = contextlib.AsyncExitStack()

    async def serve(text: str) -> str:
        async def answer(_: web.Request) -> web.Response:
            return web.Response(text=text, content_type="text/html")

        app = web.Application()
        app.router.add_get("/", answer)
        return f"{await served.enter_async_context(serving(app))}/"

    async with served:
        yield serve


async def test_a_prefetched_link(
    broker: RunningBroker,
    sandbox: Sandbox,
    redis: Redis,
    screens: Callable[..., Any],
    page_with: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Looking ahead begins no login and spends nothing; the click afterwards works."""
    seen: list[str] = []
    prefetching = login._is_prefetch

    def looked(request: web.Request) -> bool:
        seen.append(request.headers.get("Sec-Purpose", ""))
        return prefetching(request)

    monkeypatch.setattr(login, "_is_prefetch", looked)
    _, started, _ = await broker.ask("POST", "/v1/grants/ahead/login", json={"provider": "acme"})
    flows = len([key async for key in redis.scan_iter("broker:{0}:flow:*")])
    url = started["login_url"]
    rules = json.dumps({"prefetch": [{"source": "list", "urls": [url], "eagerness": "immediate"}]})
    where = await page_with(
        f'<!doctype html><script type="speculationrules">{rules}</script><a id="go" href="{url}">log in</a>'
    )
    screen = await screens(broker)
    await screen.page.goto(where)
    await until(lambda: seen)
    assert "prefetch" in seen[0], "the browser did not look ahead"
    await asyncio.sleep(0.3)
    assert len([key async for key in redis.scan_iter("broker:{0}:flow:*")]) == flows, "no state was made"
    await screen.page.click("#go")
    await screen.page.wait_for_url(f"{sandbox.url}/**")
    assert seen[-1] == "", "the click is no look ahead"
    assert (await broker.get(f"/v1/grants/ahead/login/{started['ticket']}"))["status"] == "pending"
