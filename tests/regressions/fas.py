"""FAS, a fake authorization server: a scripted socket server that sends the very bytes it is told to.

It counts requests, records every refresh token presented with its time, rotates on each success unless said
otherwise, and has reuse detection: a refresh token that was spent, or that is in flight already, counts in `reuse`
and kills its grant. Knows nothing of the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import ssl
import struct
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote_to_bytes

CLIENT_SECRET = "the-client-secret-of-these-cases"


@dataclass(slots=True)
class Received:
    """One request as it came over the socket."""

    at: float
    """`time.monotonic()` of its last byte."""
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    grant: str = ""
    """Whose refresh token it presented, "" for none that was ever issued."""

    @property
    def form(self) -> dict[str, str]:
        """The parameters in the body, the last of each."""
        return {name: values[-1] for name, values in parse_qs(self.body.decode(), keep_blank_values=True).items()}

    @property
    def refresh_token(self) -> bytes | None:
        """The refresh token presented, as the bytes it stands for."""
        for pair in self.body.split(b"&"):
            name, _, value = pair.partition(b"=")
            if name == b"refresh_token":
                return unquote_to_bytes(value.replace(b"+", b" "))
        return None


@dataclass(slots=True)
class Exchange:
    """A request about to be answered by a step of the script."""

    fas: Fas
    request: Received
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def rotate(self, refresh: bytes | None = None) -> dict[str, str]:
        """Redeem what was presented: a new access token and a new refresh token (or the one given, by its bytes)."""
        grant = self.request.grant
        self.fas.spent[self.fas.live[grant]] = grant
        self.fas.live[grant] = refresh or secret("rt").encode()
        self.fas.access[grant] = secret("at")
        self.fas.redeemed[grant] += 1
        return {"access_token": self.fas.access[grant], "refresh_token": self.fas.live[grant].decode("latin-1")}

    def unheard(self) -> None:
        """Nobody can hear of what this request did: the grant's stored refresh token cannot be the live one."""
        self.fas.unheard.add(self.request.grant)

    async def send(self, *parts: bytes) -> None:
        """Write these bytes, each in a segment of its own."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    def reset(self) -> None:
        """Close with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Step = Callable[[Exchange], Awaitable[bool | None]]
"""Answers one request; True keeps the connection."""


def secret(kind: str) -> str:
    """A token that nothing else in a log can look like."""
    return f"{kind}-{secrets.token_hex(12)}"


def http(
    body: bytes | str | dict[str, Any], status: int = 200, *headers: str, kind: str | None = "application/json"
) -> bytes:
    """A whole HTTP/1.1 answer; *headers* are lines, *kind* the Content-Type."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(data)}"]
    lines += [f"Content-Type: {kind}"] if kind is not None else []
    return "\r\n".join([*lines, *headers, "", ""]).encode() + data


def says(
    body: bytes | str | dict[str, Any], status: int = 200, *headers: str, kind: str | None = "application/json"
) -> Step:
    """A step that redeems nothing and answers so."""

    async def step(exchange: Exchange) -> bool:
        await exchange.send(http(body, status, *headers, kind=kind))
        return True

    return step


def success(**members: Any) -> Step:
    """A step that rotates and says so in JSON, with *members* besides; None leaves a usual member out."""

    async def step(exchange: Exchange) -> bool:
        answer = {**exchange.rotate(), "token_type": "Bearer", "expires_in": 3600, **members}
        await exchange.send(http({name: value for name, value in answer.items() if value is not None}))
        return True

    return step


def rotated(template: str | Callable[[bytes], bytes], *headers: str, kind: str | None = "application/json") -> Step:
    """A step that rotates; *template* has `%a` and `%r` for the tokens, or makes the whole answer of good JSON."""

    async def step(exchange: Exchange) -> bool | None:
        tokens = exchange.rotate()
        if isinstance(template, str):
            body = template.replace("%a", tokens["access_token"]).replace("%r", tokens["refresh_token"])
            await exchange.send(http(body, 200, *headers, kind=kind))
            return True
        await exchange.send(template(json.dumps({**tokens, "expires_in": 3600}).encode()))
        return None

    return step


@dataclass(slots=True)
class Fas:
    """The server. Set `script` (a step for each of the next requests), `steps` (by grant), `usual` (all others)."""

    port: int = 0
    host: str = "127.0.0.1"
    name: str = "127.0.0.1"
    """What its URLs call it."""
    tls: ssl.SSLContext | None = None
    script: deque[Step] = field(default_factory=deque)
    steps: dict[str, deque[Step]] = field(default_factory=lambda: defaultdict(deque))
    usual: Step = field(default_factory=success)
    page: Step = field(default_factory=lambda: says({"error": "not_found"}, 404))
    """Answers every GET."""
    requests: list[Received] = field(default_factory=list)
    pages: list[Received] = field(default_factory=list)
    live: dict[str, bytes] = field(default_factory=dict)
    """The live refresh token of each grant."""
    access: dict[str, str] = field(default_factory=dict)
    spent: dict[bytes, str] = field(default_factory=dict)
    redeemed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    unheard: set[str] = field(default_factory=set)
    killed: set[str] = field(default_factory=set)
    reuse: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    _presented: set[bytes] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Its origin."""
        return f"{'https' if self.tls else 'http'}://{self.name}:{self.port}"

    def issue(self, grant: str) -> str:
        """A first refresh token for *grant*, as a login would bring it."""
        self.live[grant] = secret("rt").encode()
        return self.live[grant].decode()

    def of(self, grant: str) -> list[Received]:
        """The requests of one grant."""
        return [request for request in self.requests if request.grant == grant]

    def secrets(self) -> set[str]:
        """Everything it issued that must not be seen."""
        refresh = [token.decode("latin-1") for token in (*self.live.values(), *self.spent)]
        return {*refresh, *self.access.values(), CLIENT_SECRET}

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen, on the port it had before if it had one."""
        self.tls = tls or self.tls
        # A deep backlog: two hundred connections at once are a case.
        self._server = await asyncio.start_server(self._serve, self.host, self.port, ssl=self.tls, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the socket and every connection."""
        if self._server is not None:
            self._server.close()
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, EOFError, ssl.SSLError):
                while await self._answer(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass  # `stop`: the connection is to go
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool | None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        start, *lines = head.rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, target, _ = start.split(" ")
        request = Received(time.monotonic(), method, target, headers, body)
        exchange = Exchange(self, request, reader, writer)
        if method == "GET":
            self.pages.append(request)
            return await self.page(exchange)
        token = request.refresh_token or b""
        request.grant = next((grant for grant, live in self.live.items() if live == token), self.spent.get(token, ""))
        self.requests.append(request)
        if token in self.spent or token in self._presented or request.grant in self.killed:
            self.reuse += 1
            self.killed.add(request.grant)
        if request.grant in self.killed or not request.grant:
            return await says({"error": "invalid_grant"}, 400)(exchange)
        own = self.steps[request.grant]
        step = own.popleft() if own else self.script.popleft() if self.script else self.usual
        self._presented.add(token)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await step(exchange)
        finally:
            self.in_flight -= 1
            self._presented.discard(token)


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Fas]:
    """A FAS as long as the body lasts."""
    fas = Fas(**options)
    await fas.start()
    try:
        yield fas
    finally:
        await fas.stop()
