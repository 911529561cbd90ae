"""TLS in front of servers that have none: certificates, and a proxy that ends TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import trustme


def certified(folder: Path, *certificates: Sequence[str]) -> tuple[Path, list[ssl.SSLContext]]:
    """Return the file of an authority to trust, and a server's side for each list of names it certified."""
    authority = trustme.CA()
    trusted = folder / "redis-ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    contexts = []
    for names in certificates:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(context)
        contexts.append(context)
    return trusted, contexts


@contextlib.asynccontextmanager
async def ending_tls(
    context: ssl.SSLContext, target: int, *, instead: Mapping[int, int] | None = None
) -> AsyncIterator[int]:
    """Yield the port of a proxy to *target* that speaks TLS; it replaces ports in replies as *instead* says."""
    tasks: set[asyncio.Task[None]] = set()
    bulk = {f"$5\r\n{a}\r\n".encode(): f"$5\r\n{b}\r\n".encode() for a, b in (instead or {}).items()}

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            while data := await reader.read(65536):
                for before, after in bulk.items() if back else ():
                    data = data.replace(before, after)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        try:
            upstream, downstream = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(pump(reader, downstream, back=False), pump(upstream, writer, back=True))
        except asyncio.CancelledError:
            writer.close()
            downstream.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
