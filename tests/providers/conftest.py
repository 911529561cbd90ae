"""A scripted server on a loopback socket that records its requests, and endpoints that call it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from broker.providers import Endpoint, open_http
from broker.settings import Provider

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

    from broker.providers import Http

NOW = 1_800_000_000_000


@dataclass
class Received:
    """One request as it arrived on the socket."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The path without the query."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        """The parameters in the URL."""
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def form(self) -> dict[str, list[str]]:
        """The parameters in the body."""
        return parse_qs(self.body.decode(), keep_blank_values=True)


@dataclass
class Scripted:
    """A server that plays one step of its script for each request, and the last step from then on."""

    steps: list[Any]
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Its origin."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._answer(reader, writer):
                pass
        self._tasks.discard(task)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        start, *lines = head.rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, target, _ = start.split(" ")
        self.requests.append(Received(method, target, headers, body))
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
            return b"connection: close" not in step.lower() and b"\r\n" in step
        await step(writer)
        return False


def http_answer(body: bytes | dict[str, Any], status: int = 200, **headers: str) -> bytes:
    """Make a complete HTTP/1.1 response."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(data)}", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST."""
    import socket

    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.fixture
def answer() -> Callable[..., bytes]:
    """Return a function that makes complete HTTP responses."""
    return http_answer


@pytest.fixture
def rst() -> Callable[[asyncio.StreamWriter], None]:
    """Return a function that closes a connection with RST."""
    return reset


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Scripted]]]:
    """Start scripted servers: the steps first, then TLS context and host."""
    servers: list[tuple[asyncio.Server, Scripted]] = []

    async def start(*steps: Any, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Scripted:
        scripted = Scripted(list(steps), tls, host)
        server = await asyncio.start_server(scripted._serve, host, 0, ssl=tls)
        scripted.port = server.sockets[0].getsockname()[1]
        servers.append((server, scripted))
        return scripted

    yield start
    for server, scripted in servers:
        server.close()
        tasks = list(scripted._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    """Open the shared client session."""
    async with open_http(2.0) as opened:
        yield opened
    await asyncio.sleep(0)


@pytest.fixture
def endpoint_at(http: Http) -> Callable[..., Endpoint]:
    """Return a function that makes an endpoint of kind oauth2 (or another) with the given token endpoint."""

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
        return Endpoint.from_settings("acme", provider, http, clock=clock)

    return make
