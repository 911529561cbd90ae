"""A minimal OAuth client with a callback server, to call the sandbox as a third party would."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, quote_plus

import aiohttp
from aiohttp import web

from broker.sandbox import walk_login

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.sandbox import Authority

LANDING = "<p>signed in<form action=/search><input name=q><button>Search</button></form>"
"""The page at the callback: the browser ignores its form."""

VERIFIER = "a-verifier-that-is-long-enough-for-rfc-7636-to-accept-it"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: status, headers, and the body as text."""

    status: int
    text: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.text)

    @property
    def error(self) -> tuple[int, str]:
        """Status and error code."""
        return self.status, self.json["error"]


class RelyingParty:
    """The client; `callbacks` are the parameters of each redirect that came back."""

    def __init__(self) -> None:
        """Set nothing up yet."""
        self.callbacks: list[dict[str, str]] = []
        self.redirect_uri = ""

    async def __aenter__(self) -> Self:
        """Listen for redirects."""
        application = web.Application()
        application.router.add_get("/callback", self._called_back)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.redirect_uri = f"http://127.0.0.1:{self._runner.addresses[0][1]}/callback"
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self._http.close()
        await self._runner.cleanup()

    async def _called_back(self, request: web.Request) -> web.Response:
        self.callbacks.append(dict(request.query))
        return web.Response(text=LANDING, content_type="text/html")

    def authorization_url(self, authority: Authority, **more: str) -> str:
        """Return where to log in; the redirect URI stands there verbatim, the rest is encoded."""
        parameters = {
            "client_id": authority.client_id,
            "response_type": "code",
            "scope": authority.dialect.default_scope,
            "redirect_uri": self.redirect_uri,
            "state": "st+a te",
            **more,
        }
        query = "&".join(f"{name}={quote(value, safe=':/')}" for name, value in parameters.items())
        return f"{authority.endpoint('authorize')}?{query}"

    async def login(self, authority: Authority, *, consent: str = "allow", **more: str) -> dict[str, str]:
        """Log in with a browser and return the parameters at the callback."""
        assert await walk_login(self.authorization_url(authority, **more), consent=consent) == LANDING
        return self.callbacks[-1]

    async def call(
        self, method: str, url: str, *, form: dict[str, str] | None = None, authorization: str | None = None
    ) -> Answer:
        """Send a request and read the complete response."""
        headers = {} if authorization is None else {"Authorization": authorization}
        async with self._http.request(method, url, data=form, headers=headers, allow_redirects=False) as response:
            return Answer(response.status, await response.text(), dict(response.headers))

    async def token(self, authority: Authority, *, endpoint: str = "token", **form: str) -> Answer:
        """Post a form to the token endpoint with Basic."""
        url = authority.endpoint(endpoint)
        return await self.call("POST", url, form=form, authorization=basic(authority))

    async def exchange(self, authority: Authority, code: str, **more: str) -> Answer:
        """Exchange a code."""
        form = {"redirect_uri": self.redirect_uri, "scope": authority.dialect.default_scope, **more}
        return await self.token(authority, grant_type="authorization_code", code=code, **form)

    async def refresh(self, authority: Authority, token: str, **more: str) -> Answer:
        """Refresh."""
        form = {"scope": authority.dialect.default_scope, **more}
        return await self.token(authority, grant_type="refresh_token", refresh_token=token, **form)

    async def api(self, authority: Authority, token: str) -> Answer:
        """Use an access token."""
        return await self.call("GET", authority.endpoint("api"), authorization=f"Bearer {token}")


async def until(holds: Callable[[], bool]) -> None:
    """Wait until *holds* does; five seconds at most."""
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.005)


def basic(authority: Authority, secret: str | None = None) -> str:
    """Return the Basic header, encoded as the authority wants it."""
    pair = [authority.client_id, secret or authority.client_secret]
    if authority.options.basic_encoding == "form":
        pair = [quote_plus(part) for part in pair]
    return "Basic " + base64.b64encode(":".join(pair).encode()).decode()
