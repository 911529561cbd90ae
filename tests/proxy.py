"""A proxy in front of Redis that cuts links and drops replies."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Self

from broker.store import scripts

if TYPE_CHECKING:
    from collections.abc import Callable


class RedisProxy:
    """Passes bytes on, until told otherwise. `async with RedisProxy(port) as proxy`, then `proxy.url`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.StreamWriter] = set()
        self._drop: dict[bytes, int] = {}
        self._swallow: dict[bytes, int] = {}
        self.dropped = 0
        """Replies that were dropped, and requests that were swallowed."""
        self.port = 0
        self.up = True
        self.resetting = 0
        """How many more links are reset as soon as they are taken."""

    @property
    def url(self) -> str:
        """The URL of Redis through this proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.sleep(0)

    def drop_reply(self, script: scripts.Script, times: int = 1) -> None:
        """Let *script* run, but close the link instead of passing its reply on."""
        self._drop[script.sha.encode()] = times

    def swallow(self, script: scripts.Script, times: int = 1) -> None:
        """Close the link instead of passing *script* on: it never runs."""
        self._swallow[script.sha.encode()] = times

    def cut(self) -> None:
        """Close every link."""
        for link in list(self._links):
            link.close()

    def reset(self) -> None:
        """Reset every link, as a firewall does that has forgotten it."""
        for link in list(self._links):
            _reset(link)

    def down(self) -> None:
        """Take no more connections, and cut those there are."""
        self.up = False
        self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.up:
            writer.close()
            return
        if self.resetting:
            self.resetting -= 1
            _reset(writer)
            return
        try:
            upstream, downstream = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        self._links |= {writer, downstream}
        doomed = asyncio.Event()

        def judge(data: bytes) -> bool:
            if self._takes(self._swallow, data):
                return False
            if self._takes(self._drop, data):
                doomed.set()
            return True

        try:
            await asyncio.gather(
                self._pump(reader, downstream, judge), self._pump(upstream, writer, lambda _: not doomed.is_set())
            )
        finally:
            self._links -= {writer, downstream}

    def _takes(self, orders: dict[bytes, int], data: bytes) -> bool:
        for sha, times in orders.items():
            if times > 0 and sha in data:
                orders[sha] = times - 1
                self.dropped += 1
                return True
        return False

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: Callable[[bytes], bool]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if not passes(data):
                    break
                writer.write(data)
                await writer.drain()
        writer.close()


def _reset(link: asyncio.StreamWriter) -> None:
    link.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.transport.abort()
