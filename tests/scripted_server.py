"""Servers that send the very bytes their script says, over real sockets, and record every request.

`ScriptedServer` answers each request with the next step of its script. `AuthorizationServer` is one that also knows
which refresh token lives: it rotates on each success unless a step says otherwise, and it has reuse detection: a
refresh token that was spent, or that is in flight already, counts in `reuse` and kills its grant. Neither knows
anything of the broker.
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
from urllib.parse import parse_qs, unquote_to_bytes, urlsplit

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
    """Whose refresh token it presented to an authorization server, "" for none that was ever issued."""

    @property
    def path(self) -> str:
        """The path without the query."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        """All parameters in the URL."""
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def form(self) -> dict[str, list[str]]:
        """All parameters in the body."""
        return parse_qs(self.body.decode(), keep_blank_values=True)

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters in the body, the last of each."""
        return {name: values[-1] for name, values in self.form.items()}

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

    request: Received
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    owner: AuthorizationServer | None = None

    @property
    def auth_server(self) -> AuthorizationServer:
        """The authorization server that was asked."""
        assert self.owner is not None, "a scripted server has no grants"
        return self.owner

    def rotate(self, refresh: bytes | None = None) -> dict[str, str]:
        """Redeem what was presented: a new access token and a new refresh token (or the one given, by its bytes)."""
        return self.auth_server.rotate(self.request.grant, refresh)

    def lose_rotation(self) -> None:
        """Note that nobody can hear of what this request did: the stored refresh token cannot be the live one."""
        self.auth_server.unheard.add(self.request.grant)

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
    """Return a token that nothing else in a log can look like."""
    return f"{kind}-{secrets.token_hex(12)}"


def http(
    body: bytes | str | dict[str, Any], status: int = 200, *headers: str, kind: str | None = "application/json"
) -> bytes:
    """Return a whole HTTP/1.1 answer; *headers* are lines, *kind* the Content-Type."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(data)}"]
    lines += [f"Content-Type: {kind}"] if kind is not None else []
    return "\r\n".join([*lines, *headers, "", ""]).encode() + data


def says(
    body: bytes | str | dict[str, Any], status: int = 200, *headers: str, kind: str | None = "application/json"
) -> Step:
    """Return a step that redeems nothing and answers so."""

    async def step(exchange: Exchange) -> bool:
        await exchange.send(http(body, status, *headers, kind=kind))
        return True

    return step


def success(**members: Any) -> Step:
    """Return a step that rotates and says so in JSON, with *members* besides; None leaves a usual member out."""

    async def step(exchange: Exchange) -> bool:
        answer = {**exchange.rotate(), "token_type": "Bearer", "expires_in": 3600, **members}
        await exchange.send(http({name: value for name, value in answer.items() if value is not None}))
        return True

    return step


def rotated(template: str | Callable[[bytes], bytes], *headers: str, kind: str | None = "application/json") -> Step:
    """Return a step that rotates; *template* has `%a` and `%r` for the tokens, or makes the answer of good JSON."""

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
class ScriptedServer:
    """Answers each request with the next of its `steps`, the last one for ever; bytes are sent as they are."""

    steps: list[Step | bytes] = field(default_factory=list)
    port: int = 0
    host: str = "127.0.0.1"
    name: str = ""
    """What its URLs call it, the address unless given."""
    tls: ssl.SSLContext | None = None
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Its origin."""
        name = self.name or (f"[{self.host}]" if ":" in self.host else self.host)
        return f"{'https' if self.tls else 'http'}://{name}:{self.port}"

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
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, EOFError, ssl.SSLError):
                while await self._answer(Exchange(await _received(reader), reader, writer)):
                    pass
        except asyncio.CancelledError:
            pass  # `stop`: the connection is to go
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, exchange: Exchange) -> bool | None:
        """Answer one request; return whether the connection is kept."""
        self.requests.append(exchange.request)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if not isinstance(step, bytes):
            return await step(exchange)
        await exchange.send(step)
        return b"connection: close" not in step.lower() and b"\r\n" in step


async def _received(reader: asyncio.StreamReader) -> Received:
    """Read one request, its body by Content-Length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, *lines = head.rstrip("\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    method, target, _ = start.split(" ")
    return Received(time.monotonic(), method, target, headers, body)


@dataclass(slots=True)
class AuthorizationServer(ScriptedServer):
    """Rotates. Set `script` (for the next requests), `grant_steps` (by grant), `usual` (all others)."""

    script: deque[Step] = field(default_factory=deque)
    grant_steps: dict[str, deque[Step]] = field(default_factory=lambda: defaultdict(deque))
    usual: Step = field(default_factory=success)
    page: Step = field(default_factory=lambda: says({"error": "not_found"}, 404))
    """Answers every GET."""
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

    def issue(self, grant: str) -> str:
        """Return a first refresh token for *grant*, as a login would bring it."""
        self.live[grant] = secret("rt").encode()
        return self.live[grant].decode()

    def requests_of(self, grant: str) -> list[Received]:
        """Return the requests of one grant."""
        return [request for request in self.requests if request.grant == grant]

    def secrets(self) -> set[str]:
        """Everything it issued that must not be seen."""
        refresh = [token.decode("latin-1") for token in (*self.live.values(), *self.spent)]
        return {*refresh, *self.access.values(), CLIENT_SECRET}

    def rotate(self, grant: str, refresh: bytes | None = None) -> dict[str, str]:
        """Redeem the live refresh token of *grant*: a new access token, and a new refresh token or the one given."""
        self.spent[self.live[grant]] = grant
        self.live[grant] = refresh or secret("rt").encode()
        self.access[grant] = secret("at")
        self.redeemed[grant] += 1
        return {"access_token": self.access[grant], "refresh_token": self.live[grant].decode("latin-1")}

    async def _answer(self, exchange: Exchange) -> bool | None:
        exchange.owner, request = self, exchange.request
        if request.method == "GET":
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
        own = self.grant_steps[request.grant]
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
async def scripted_server(*steps: Step | bytes, **options: Any) -> AsyncIterator[ScriptedServer]:
    """Run a server with these steps as long as the body lasts."""
    server = ScriptedServer(list(steps), **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def authorization_server(**options: Any) -> AsyncIterator[AuthorizationServer]:
    """Run an authorization server as long as the body lasts."""
    server = AuthorizationServer(**options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
