"""Where the applications listen: TCP addresses and Unix sockets."""

from __future__ import annotations

import os
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from broker.api.app import applications
from broker.api.front import Front
from broker.api.unreadable import answer_unreadable
from broker.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from broker.api.app import Api
    from broker.settings import Http

_BACKLOG = 1024
"""Connections that may wait to be accepted: beyond them the kernel has a client ask again a second later."""
SHUTDOWN = 1.0
"""Seconds that requests still under way get when the listeners close; long polls are let go first."""


@asynccontextmanager
async def listening(api: Api) -> AsyncIterator[list[str]]:
    """Listen on every address of the settings; gives them as bound. Raises `InvalidSettings` where one is taken."""
    http = api.settings.http
    whole, public = applications(api)
    async with AsyncExitStack() as stack:
        # Listeners close first, then whoever waits is told that there is no news, then what is left is closed.
        whole.on_shutdown.append(api.reader.stop_waiting)
        runner = await _served(stack, whole, api)
        assert runner.server is not None  # noqa: S101 - it was set up
        Front(api, runner.server)
        bound = await _start(runner, http.listen, "http.listen", http)
        if http.public_listen:
            bound += await _start(await _served(stack, public, api), http.public_listen, "http.public_listen", http)
        api.connections.start()
        stack.callback(api.connections.stop)
        yield bound


async def _served(stack: AsyncExitStack, application: web.Application, api: Api) -> web.AppRunner:
    keepalive = api.settings.http.keepalive_timeout.total_seconds()
    # No access log: a callback's query carries a code.
    runner = web.AppRunner(
        application, access_log=None, handler_cancellation=True, keepalive_timeout=keepalive, shutdown_timeout=SHUTDOWN
    )
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - it was set up
    api.connections.watch(runner.server)
    answer_unreadable(runner.server)
    stack.push_async_callback(runner.cleanup)
    return runner


async def _start(runner: web.AppRunner, addresses: Sequence[str], key: str, http: Http) -> list[str]:
    for address in addresses:
        try:
            if address.startswith("unix:"):
                path = address.removeprefix("unix:")
                await web.UnixSite(runner, path, backlog=_BACKLOG).start()
                os.chmod(path, int(http.socket_mode, 8))  # noqa: PTH101 - a socket, no file
            else:
                host, _, port = address.rpartition(":")
                await web.TCPSite(
                    runner, host.strip("[]"), int(port), reuse_port=http.reuse_port or None, backlog=_BACKLOG
                ).start()
        except (OSError, UnicodeError) as error:  # UnicodeError: no label of a host name is so long, or empty
            raise InvalidSettings(
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
