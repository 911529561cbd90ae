"""A browser that logs in step by step."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import aiohttp
import pytest
from yarl import URL

from broker.errors import Conflict
from broker.sandbox import BrowserError, walk_login
from broker.sandbox.browser import parse_forms
from tests.conftest import provider_settings
from tests.steps import authority_of

if TYPE_CHECKING:
    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker


class StuckStep:
    """A step of a broker that dies in it: it goes on no more, until `end` has it fail."""

    def __init__(self) -> None:
        self.reached, self._ended = asyncio.Event(), asyncio.Event()

    async def __call__(self, *_: Any) -> Any:
        """Stand for the step."""
        self.reached.set()
        await self._ended.wait()
        raise Conflict("died")

    def end(self) -> None:
        """Let the broker, which lives in truth, stop without waiting for it."""
        self._ended.set()


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


async def come_back(session: aiohttp.ClientSession, redirected: str) -> tuple[int, str]:
    """Open a redirect, and confirm the login where the page asks for it; status and text of the last page."""
    async with session.get(redirected) as answer:
        status, text = answer.status, await answer.text()
    return await press(session, redirected, text) if 'name="confirm"' in text else (status, text)


async def press(session: aiohttp.ClientSession, redirected: str, text: str, **headers: str) -> tuple[int, str]:
    """Press the button of the page that a redirect led to, as a browser does; status and text of the page then."""
    (form,) = parse_forms(text)
    url = urljoin(redirected, form.action)
    headers = {"Origin": str(URL(url).origin())} | headers
    async with session.post(url, data={**form.fields, **dict(form.buttons)}, headers=headers) as answer:
        return answer.status, await answer.text()


async def exchanges(sandbox: Sandbox, provider: str) -> int:
    """How many codes were presented at the token endpoint."""
    requests = authority_of(sandbox, provider).token_requests
    return sum(request.grant_type == "authorization_code" for request in requests)


def with_accounts(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    """Return the sandbox's providers, each with the endpoint that says whose a token is."""
    providers = provider_settings(sandbox)
    providers["cameramanager"]["account_endpoint"] = f"{sandbox.url}/rest/v2.3/users/self"
    providers["een"] |= {
        "account_endpoint": "http://{httpsBaseUrl.hostname}:{httpsBaseUrl.port}/v3/api/v3.0/users/self",
        "account_hosts": ["127.0.0.1"],
        "allow_http": True,
    }
    return providers


async def log_in_as(broker: RunningBroker, user: str, provider: str = "acme", grant: str = "g1", **body: Any) -> str:
    """Log in as a person; return the last page."""
    return await walk_login((await start(broker, grant, provider, **body))["login_url"], user=user)


async def refused_as(broker: RunningBroker, user: str, provider: str = "acme", **body: Any) -> tuple[str, str]:
    """Log in as a person whose account is another; return the page and the login's ticket."""
    started = await start(broker, "g1", provider, **body)
    with pytest.raises(BrowserError) as refused:
        await walk_login(started["login_url"], user=user)
    assert refused.value.status == 409
    return refused.value.text, started["ticket"]
