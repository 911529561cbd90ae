"""Connections as an attacker has them: raw bytes out, whatever comes back, and how the connection ended."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back."""

    sent: int
    """Bytes that the broker's side took."""
    text: bytes
    closed: bool

    @property
    def statuses(self) -> list[int]:
        """The statuses of all responses, in their order."""
        return [int(part[:3]) for part in self.text.split(b"HTTP/1.1 ")[1:]]


def send(port: int, request: bytes, wait: float = 3.0, *, patient: bool = True) -> Heard:
    """Send *request* on a connection of its own, as far as the broker takes it, and read what comes back.

    Args:
        port: of the listener.
        request: raw bytes.
        wait: seconds after which a connection counts as kept open.
        patient: wait for the end of the connection, and not only for the first response and what follows at once.
    """
    ends, heard, sent, closed = time.monotonic() + wait, b"", 0, False
    with socket.create_connection(("127.0.0.1", port), 5) as link:
        link.setblocking(False)
        moved = time.monotonic()
        while not closed and time.monotonic() < ends:
            if sent < len(request):
                with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                    sent += link.send(request[sent : sent + 65536])
                    moved = time.monotonic()
            try:
                part = link.recv(65536)
                heard, closed, moved = heard + part, not part, time.monotonic()
            except BlockingIOError:
                select.select([link], [link] if sent < len(request) else [], [], 0.01)
            except ConnectionResetError:
                closed = True
            if not patient and heard and time.monotonic() > moved + 0.01:
                break
    return Heard(sent, heard, closed)


async def status(port: int, path: str, *headers: str) -> int:
    """Return the status of one request on a new connection; 0: it was closed without a response, in order or not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write("\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode())
        line = await asyncio.wait_for(reader.readline(), 10)
        return int(line.split()[1]) if line else 0
    except ConnectionResetError:
        return 0
    finally:
        writer.transport.abort()
