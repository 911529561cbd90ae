"""Where the applications listen: TCP addresses and Unix sockets."""

from __future__ import annotations

import os
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from broker.errors import CorrectSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from broker.settings import Http

KEEPALIVE = 75.0
"""Seconds an idle connection is kept: longer than the 60 s of common balancers, so that they close first."""
_SHUTDOWN = 1.0
"""Seconds that requests still under way get when the listeners close; long polls are cut then."""


@asynccontextmanager
async def listening(http: Http, whole: web.Application, public: web.Application) -> AsyncIterator[list[str]]:
    """Listen on every address of the settings; gives them as bound. Raises `CorrectSettings` where one is taken."""
    async with AsyncExitStack() as stack:
        bound = await _start(stack, whole, http.listen, "http.listen", http.socket_mode)
        if http.public_listen:
            bound += await _start(stack, public, http.public_listen, "http.public_listen", http.socket_mode)
        yield bound


async def _start(
    stack: AsyncExitStack, application: web.Application, addresses: Sequence[str], key: str, socket_mode: str
) -> list[str]:
    # No access log: a callback's query carries a code.
    runner = web.AppRunner(
        application, access_log=None, handler_cancellation=True, keepalive_timeout=KEEPALIVE, shutdown_timeout=_SHUTDOWN
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    for address in addresses:
        try:
            if address.startswith("unix:"):
                path = address.removeprefix("unix:")
                await web.UnixSite(runner, path).start()
                os.chmod(path, int(socket_mode, 8))  # noqa: PTH101 - a socket, no file
            else:
                host, _, port = address.rpartition(":")
                await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except (OSError, UnicodeError) as error:  # UnicodeError: no label of a host name is so long, or empty
            raise CorrectSettings(
                f"{key}: cannot listen on {address} ({_why(error)}): free it or choose another address"
            ) from None
    return [_spelled(name) for name in runner.addresses]


def _why(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "no host name"
    if isinstance(error, socket.gaierror) or not error.errno or error.errno < 0:  # no errno, or the resolver's
        return error.strerror or str(error)
    return os.strerror(error.errno)  # asyncio's own words repeat the address


def _spelled(name: object) -> str:
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return f"unix:{name}"
