"""An HTTP proxy over real sockets: CONNECT for https, absolute URLs for plain http, with the faults of real ones.

Set `fault` to have it refuse, close, or wait. It knows where each host leads, so that names need no DNS. It counts
tunnels and forwarded requests, and keeps every head that it received.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl

Fault = Literal[
    "refuse",  # with `status`, though the credentials are right
    "close",  # the connection, without an answer
    "reset",
    "garbage",  # an answer that is not HTTP
    "hang",  # before the tunnel stands
    "close tunnel",  # when it stands, before a byte passes
    "reset tunnel",
    "reset answer",  # the request has passed, its answer does not
    "slow",  # 0.3 s before the tunnel stands
]


@dataclass(slots=True)
class ConnectProxy:
    """A proxy that may ask for credentials. `port` is known once it listens."""

    credentials: str | None = None
    tls: ssl.SSLContext | None = None
    names: dict[str, int] = field(default_factory=dict)
    """The port on loopback of each host that it knows by name."""
    fault: Fault | None = None
    status: int = 502
    port: int = 0
    heads: list[str] = field(default_factory=list)
    tunnels: int = 0
    forwarded: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Its URL, as settings name it."""
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}"

    async def start(self) -> None:
        """Listen on loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the socket and every connection."""
        if self._server is not None:
            self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Close every connection, so that the next request needs a new one."""
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, EOFError):
                await self._answer(reader, writer)
        except asyncio.CancelledError:
            pass  # `stop`
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.heads.append(head)
        method, target, _ = head.split("\r\n")[0].split(" ")
        if self._wants_credentials(head):
            writer.write(b'HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm="p"\r\nContent-Length: 0\r\n\r\n')
            return
        match self.fault:
            case "refuse":
                writer.write(f"HTTP/1.1 {self.status} No\r\nContent-Length: 0\r\n\r\n".encode())
                return
            case "close":
                return
            case "reset":
                _reset(writer)
                return
            case "garbage":
                writer.write(b"SSH-2.0-proxy\r\n\r\n")
                return
            case "hang":
                await asyncio.sleep(60)
            case "slow":
                await asyncio.sleep(0.3)
            case _:
                pass
        if method == "CONNECT":
            await self._tunnel(target, reader, writer)
        else:
            await self._forward(target, head, reader, writer)

    def _wants_credentials(self, head: str) -> bool:
        if self.credentials is None:
            return False
        line = f"proxy-authorization: basic {base64.b64encode(self.credentials.encode()).decode()}"
        return line.lower() not in head.lower()

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.names.get(host, port))

    async def _tunnel(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = target.rpartition(":")
        upstream = await self._connect(host, int(port))
        self.tunnels += 1
        try:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await writer.drain()
            if self.fault == "close tunnel":
                return
            if self.fault == "reset tunnel":
                _reset(writer)
                return
            await self._relay(reader, writer, *upstream)
        finally:
            upstream[1].close()

    async def _forward(
        self, target: str, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        url = urlsplit(target)
        lines = [line for line in head.split("\r\n")[1:] if not line.lower().startswith("proxy-authorization:")]
        upstream = await self._connect(url.hostname or "", url.port or 80)
        self.forwarded += 1
        try:
            method = head.split(" ", maxsplit=1)[0]
            upstream[1].write("\r\n".join([f"{method} {url.path} HTTP/1.1", *lines]).encode("latin-1"))
            await self._relay(reader, writer, *upstream)
        finally:
            upstream[1].close()

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        """Pass bytes both ways until one side ends."""
        answered = 0

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            nonlocal answered
            while data := await source.read(65536):
                if source is up_reader:
                    answered += 1
                    # In a tunnel the first records are the handshake: an answer follows the second one from here.
                    if self.fault == "reset answer" and _is_answer(data, answered):
                        _reset(writer)
                        return
                sink.write(data)
                await sink.drain()

        ways = {asyncio.create_task(pump(reader, up_writer)), asyncio.create_task(pump(up_reader, writer))}
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


def _is_answer(data: bytes, count: int) -> bool:
    return data.startswith(b"HTTP/") or (data[:1] == b"\x17" and count > 1)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def connect_proxy(
    credentials: str | None = None, *, tls: ssl.SSLContext | None = None, names: dict[str, int] | None = None
) -> AsyncIterator[ConnectProxy]:
    """Run a proxy as long as the body lasts."""
    proxy = ConnectProxy(credentials, tls, names or {})
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
