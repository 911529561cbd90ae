"""Scripted servers as fixtures, and endpoints that speak to them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from broker.providers import Endpoint, open_http
from broker.settings import Provider
from tests.scripted_server import ScriptedServer, scripted_server
from tests.scripted_server import http as http_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from broker.providers import Http

NOW = 1_800_000_000_000


def http_answer(body: bytes | dict[str, Any], status: int = 200, **headers: str) -> bytes:
    """Return a whole HTTP/1.1 answer; *headers* by name, `_` for `-`."""
    return http_bytes(body, status, *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()))


@pytest.fixture
def answer() -> Callable[..., bytes]:
    """Build whole HTTP answers."""
    return http_answer


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[ScriptedServer]]]:
    """Start scripted servers: the steps first, then TLS context and host."""
    async with contextlib.AsyncExitStack() as servers:

        async def start(*steps: Any, **options: Any) -> ScriptedServer:
            return await servers.enter_async_context(scripted_server(*steps, **options))

        yield start


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    """Yield the shared client session."""
    async with open_http(2.0) as opened:
        yield opened
    await asyncio.sleep(0)


@pytest.fixture
def endpoint_at(http: Http) -> Callable[..., Endpoint]:
    """Make an endpoint of kind oauth2 (or another) whose token endpoint is at the URL given."""

    def make(url: str, *, clock: Callable[[], int] = lambda: NOW, **settings: Any) -> Endpoint:
        given = {
            "kind": "oauth2",
            "client_id": "an id",
            "client_secret": "s3cr3t/+ä",
            "token_endpoint": f"{url}/token",
            "revocation_endpoint": f"{url}/revoke",
        }
        provider = Provider.model_validate(
            {name: value for name, value in {**given, **settings}.items() if value is not None}
        )
        return Endpoint.of("acme", provider, http, clock=clock)

    return make
