"""A token endpoint that costs next to nothing: `python -m tests.benchmarks.token_server PORT LATENCY_MS`.

Rotates on every refresh and answers what an authorization server answers, after the latency asked for.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from typing import cast

import uvloop

_NUMBERS = itertools.count()


class Connection(asyncio.Protocol):
    """One kept connection; requests with a Content-Length, one at a time."""

    latency = 0.0

    def __init__(self) -> None:
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        head, blank, body = self._rest.partition(b"\r\n\r\n")
        if not blank:
            return
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        if len(body) < length:
            return
        self._rest = body[length:]
        if self.latency:
            asyncio.get_running_loop().call_later(self.latency, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        number = next(_NUMBERS)
        body = (
            b'{"access_token":"access-%032d","token_type":"Bearer","expires_in":3600,"refresh_token":"refresh-%032d"}'
            % (number, number)
        )
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )


async def serve(port: int, latency_ms: float) -> None:
    """Serve until the process is ended."""
    Connection.latency = latency_ms / 1000
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), float(sys.argv[2])))
