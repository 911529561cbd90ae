"""The sandbox itself: three authorities behind one port on loopback, and faults ordered over HTTP."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING, Any, Final, Self

from aiohttp import web

from broker.sandbox import cameramanager, rotating, v3
from broker.sandbox.authority import Authority
from broker.sandbox.refusal import INVALID_REQUEST

if TYPE_CHECKING:
    from types import TracebackType

_SHUTDOWN: Final = 0.2
"""Seconds that requests in flight have to end."""

_CLOSE_PAUSE: Final = 0.01
"""Seconds in which clients notice that their connections were closed."""


class Sandbox:
    """A real OAuth 2.0 server on loopback; an async context manager."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, access_lifetime: float | None = None) -> None:
        """Set up the authorities; nothing listens yet.

        *host* is a loopback address; *port* 0 takes a free one and keeps it; *access_lifetime* in seconds
        holds for every authority, None leaves each its dialect's own.

        Raises:
            ValueError: *host* is not a loopback address.

        """
        if not _is_loopback(host):
            message = f"the sandbox listens on loopback addresses only, not on {host!r}"
            raise ValueError(message)
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None
        self.cameramanager = Authority(cameramanager.DIALECT, access_lifetime=access_lifetime)
        self.v3 = Authority(v3.DIALECT, access_lifetime=access_lifetime)
        self.rotating = Authority(rotating.DIALECT, access_lifetime=access_lifetime)
        self.authorities: dict[str, Authority] = {
            authority.dialect.name: authority for authority in (self.cameramanager, self.v3, self.rotating)
        }

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash; it stays the same while the sandbox does not listen."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def start_listening(self) -> None:
        """Accept connections, on the same port as before; do nothing if it already listens.

        Raises:
            OSError: the port is taken.

        """
        if self._runner is not None:
            return
        # An application belongs to one runner for good, so each start makes a new one around the same state.
        runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=_SHUTDOWN)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = runner.addresses[0][1]
        for authority in self.authorities.values():
            authority.base_url = self.url
            authority.issuer = authority.issuer or self.url + authority.dialect.paths.get("issuer", "")

    async def stop_listening(self) -> None:
        """Close the port and every connection, hanging ones too; tokens and ordered faults stay."""
        runner, self._runner = self._runner, None
        for authority in self.authorities.values():
            authority.faults.release()
        if runner is not None:
            await runner.cleanup()
            # A client in this event loop must see its kept connections end before it tries the next request.
            await asyncio.sleep(_CLOSE_PAUSE)

    def secrets(self) -> set[str]:
        """Return every secret that any authority ever issued."""
        return set().union(*(authority.secrets() for authority in self.authorities.values()))

    async def __aenter__(self) -> Self:
        """Start listening."""
        await self.start_listening()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop within a second, whatever hangs."""
        await self.stop_listening()

    def _application(self) -> web.Application:
        application = web.Application()
        application.add_routes(cameramanager.routes(self.cameramanager))
        application.add_routes(v3.routes(self.v3))
        application.add_routes(rotating.routes(self.rotating))
        application.add_routes(
            [
                web.get("/sandbox/state", self._state),
                web.post("/sandbox/faults", self._order),
                web.delete("/sandbox/faults", self._clear),
            ]
        )
        return application

    async def _state(self, _request: web.Request) -> web.Response:
        return web.json_response({name: authority.state() for name, authority in self.authorities.items()})

    async def _order(self, request: web.Request) -> web.Response:
        try:
            wanted: Any = await request.json()
            authority = self.authorities[wanted.pop("authority")]
            authority.faults.order(wanted.pop("kind"), wanted.pop("times", 1), **wanted)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            body = {"error": INVALID_REQUEST, "error_description": str(error)}
            return web.json_response(body, status=400)
        return web.json_response(authority.faults.owed(), status=201)

    async def _clear(self, _request: web.Request) -> web.Response:
        for authority in self.authorities.values():
            authority.faults.clear()
        return web.Response(status=204)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
