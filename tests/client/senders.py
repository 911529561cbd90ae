"""The HTTP clients that services use, each asked the same way."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import aiohttp
import httpx
import httpx2
import requests

from broker.client import Broker, SyncBroker

TLS = ssl.create_default_context()
"""Made once: httpx would load all certificates anew for each client."""


class Send(Protocol):
    """Send a request; status and text of the answer."""

    async def __call__(self, method: str, url: str, body: Any = None) -> tuple[int, str]: ...


Sender = Callable[..., AbstractAsyncContextManager[Send]]


@asynccontextmanager
async def aiohttp_sender(origin: str | None = None) -> AsyncIterator[Send]:
    """Aiohttp with the middleware."""
    async with Broker.from_env() as broker:
        middleware = broker.grant("g1").aiohttp(origin)
        async with aiohttp.ClientSession(middlewares=[middleware]) as session:

            async def send(method: str, url: str, body: Any = None) -> tuple[int, str]:
                async with session.request(method, url, data=body) as answer:
                    return answer.status, await answer.text()

            yield send


def _httpx_sender(library: Any) -> Sender:
    @asynccontextmanager
    async def sender(origin: str | None = None) -> AsyncIterator[Send]:
        async with (
            Broker.from_env() as broker,
            library.AsyncClient(auth=broker.grant("g1").httpx(origin), follow_redirects=True, verify=TLS) as client,
        ):

            async def send(method: str, url: str, body: Any = None) -> tuple[int, str]:
                answer = await client.request(method, url, content=body)
                return answer.status_code, answer.text

            yield send

    return sender


def _sync_httpx_sender(library: Any) -> Sender:
    @asynccontextmanager
    async def sender(origin: str | None = None) -> AsyncIterator[Send]:
        broker = SyncBroker.from_env()
        with library.Client(auth=broker.grant("g1").httpx(origin), follow_redirects=True, verify=TLS) as client:

            def sent(method: str, url: str, body: Any) -> tuple[int, str]:
                answer = client.request(method, url, content=body)
                return answer.status_code, answer.text

            async def send(method: str, url: str, body: Any = None) -> tuple[int, str]:
                return await asyncio.to_thread(sent, method, url, body)

            yield send
        await asyncio.to_thread(broker.close)

    return sender


@asynccontextmanager
async def requests_sender(origin: str | None = None) -> AsyncIterator[Send]:
    """Yield the requests library with its auth."""
    broker = SyncBroker.from_env()
    with requests.Session() as session:
        session.auth = broker.grant("g1").requests(origin)
        session.trust_env = False

        def sent(method: str, url: str, body: Any) -> tuple[int, str]:
            answer = session.request(method, url, data=body)
            return answer.status_code, answer.text

        async def send(method: str, url: str, body: Any = None) -> tuple[int, str]:
            return await asyncio.to_thread(sent, method, url, body)

        yield send
    await asyncio.to_thread(broker.close)


SENDERS: dict[str, Sender] = {
    "aiohttp": aiohttp_sender,
    "httpx": _httpx_sender(httpx),
    "httpx2": _httpx_sender(httpx2),
    "httpx-sync": _sync_httpx_sender(httpx),
    "httpx2-sync": _sync_httpx_sender(httpx2),
    "requests": requests_sender,
}


def stream_for(name: str, size: int) -> Any:
    """Return a body that goes by once, as the client of this *name* takes it."""

    def once() -> Iterator[bytes]:
        yield b"x" * (size // 2)
        yield b"x" * (size - size // 2)

    async def once_async() -> AsyncIterator[bytes]:
        for part in once():
            yield part

    return once_async() if name in {"aiohttp", "httpx", "httpx2"} else once()
