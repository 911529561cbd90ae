"""Where the applications listen: TCP addresses and Unix sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from broker.api.app import find_read, make_applications
from broker.api.server import Runner
from broker.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from broker.api.context import Context
    from broker.settings import Http

_BACKLOG = 1024
"""Connections that may wait to be accepted: the kernel has further clients try again a second later."""


@asynccontextmanager
async def listening(context: Context) -> AsyncIterator[list[str]]:
    """Listen on every address of the settings during the body, and give the addresses as bound.

    At the end the listeners close first, then long polls end with 304, then the remaining connections are closed.

    Raises:
        InvalidSettings: an address cannot be listened on.
    """
    http = context.settings.http
    whole, public = make_applications(context)
    whole.on_shutdown.append(context.reader.stop_waiting)
    async with AsyncExitStack() as stack:
        runner = await _set_up(stack, Runner(whole, context, find_read))
        bound = await _start(stack, runner, http.listen, "http.listen", http)
        if http.public_listen:
            public_runner = await _set_up(stack, Runner(public, context, lambda *_: None, is_public=True))
            bound += await _start(stack, public_runner, http.public_listen, "http.public_listen", http)
        context.connections.start()
        stack.callback(context.connections.stop)
        yield bound


async def _set_up(stack: AsyncExitStack, runner: Runner) -> Runner:
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


async def _start(stack: AsyncExitStack, runner: Runner, addresses: Sequence[str], key: str, http: Http) -> list[str]:
    for address in addresses:
        try:
            if address.startswith("unix:"):
                path = address.removeprefix("unix:")
                await _require_free(path)
                await web.UnixSite(runner, path, backlog=_BACKLOG).start()
                inode = await asyncio.to_thread(_set_mode, path, http.socket_mode)
                stack.push_async_callback(asyncio.to_thread, _remove, path, inode)
            else:
                host, _, port = address.rpartition(":")
                await web.TCPSite(
                    runner, host.strip("[]"), int(port), reuse_port=http.reuse_port or None, backlog=_BACKLOG
                ).start()
        except (OSError, UnicodeError) as error:  # UnicodeError: a label of the host name is empty or too long
            raise cannot_listen(key, address, error) from None
    return [_as_url(name) for name in runner.addresses]


def cannot_listen(key: str, address: str, error: OSError | UnicodeError) -> InvalidSettings:
    """Return the error to raise for an *address* of the setting *key* that cannot be listened on."""
    return InvalidSettings(f"{key}: cannot listen on {address} ({_reason(error)}): free it or choose another address")


async def _require_free(path: str) -> None:
    """Require that nobody listens on a Unix socket: asyncio replaces the file of a living server as that of a dead one.

    Raises:
        OSError: a server answers there.
    """
    with suppress(FileNotFoundError, ConnectionRefusedError):
        _, writer = await asyncio.open_unix_connection(path)
        writer.close()
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _remove(path: str, inode: int) -> None:
    """Remove the file of a socket, unless it is another server's by now."""
    with suppress(OSError):
        if Path(path).stat().st_ino == inode:
            Path(path).unlink()


def _set_mode(path: str, octal: str) -> int:
    """Set the mode of a socket's file, and return its inode."""
    Path(path).chmod(int(octal, 8))
    return Path(path).stat().st_ino


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "no host name"
    if isinstance(error, socket.gaierror) or not error.errno or error.errno < 0:  # no errno, or the resolver's
        return error.strerror or str(error)
    return os.strerror(error.errno)  # asyncio's text repeats the address


def _as_url(name: object) -> str:
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return f"unix:{name}"
