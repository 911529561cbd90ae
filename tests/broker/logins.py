"""A browser that logs in step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp

from tests.steps import authority_of

if TYPE_CHECKING:
    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker


async def start(broker: RunningBroker, grant: str, provider: str, **body: Any) -> dict[str, Any]:
    """Begin a login; *body* is what the request says beside the provider."""
    status, started, _ = await broker.ask("POST", f"/v1/grants/{grant}/login", json={"provider": provider, **body})
    assert status == 200, started
    return started


async def opened(session: aiohttp.ClientSession, url: str) -> str:
    """Open a login link; where it redirects to."""
    async with session.get(url, allow_redirects=False) as answer:
        assert answer.status == 302
        return answer.headers["Location"]


def browser() -> aiohttp.ClientSession:
    """Return a browser with a cookie jar of its own."""
    return aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))


async def exchanges(sandbox: Sandbox, provider: str) -> int:
    """How many codes were presented at the token endpoint."""
    requests = authority_of(sandbox, provider).token_requests
    return sum(request.grant_type == "authorization_code" for request in requests)
