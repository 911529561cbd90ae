"""The emulators on the hosts of their providers: TLS on one loopback port, and the names that lead there.

The broker asks `https://accounts.google.com/…` as it is shipped: only the resolver and the trusted authority are the
tests'. A name that no emulator has cannot be resolved, so nothing leaves this machine.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from typing import TYPE_CHECKING, Any
from unittest import mock
from urllib.parse import urlsplit

from aiohttp import ThreadedResolver, web

from tests.catalogue.asked import Asked, Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import trustme

    from tests.catalogue.demands import Demands, Reply
    from tests.catalogue.emulator import Emulator

DISCOVERY = "/.well-known/openid-configuration"


def hosts(*demands: Demands) -> set[str]:
    """Return every host that is asked."""
    return {urlsplit(url).hostname or "" for one in demands for url in one.urls}


def tls_of(authority: trustme.CA, names: set[str]) -> ssl.SSLContext:
    """Return the side of a server that has all these *names*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*sorted(names)).configure_cert(context)
    return context


@contextlib.contextmanager
def resolving(names: set[str], port: int) -> Iterator[None]:
    """Let *names* lead to a loopback port, whatever port is asked for, and every other name but loopback's nowhere."""
    real = ThreadedResolver.resolve

    async def resolve(self: ThreadedResolver, host: str, asked: int = 0, *args: Any, **options: Any) -> Any:
        if host in names:
            there = {"hostname": host, "host": "127.0.0.1", "port": port}
            return [{**there, "family": socket.AF_INET, "proto": socket.IPPROTO_TCP, "flags": socket.AI_NUMERICHOST}]
        if host in {"127.0.0.1", "localhost"}:
            return await real(self, host, asked, *args, **options)
        raise socket.gaierror(socket.EAI_NONAME, "no such host in this test")

    with mock.patch.object(ThreadedResolver, "resolve", resolve):
        yield


class Provider:
    """An emulator's HTTP."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.strays: list[str] = []
        """URLs that this provider does not have."""

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer one request."""
        at = self.emulator.demands.at
        url = f"https://{request.host}{request.raw_path}"
        match url.partition("?")[0]:
            case at.authorize:
                return self._authorize(url)
            case here if here in {at.token, at.refresh, *at.same_as_token}:
                asked = Asked(request.method, url, request.headers, await request.read())
                return _response(self.emulator.token(asked))
            case at.revoke:
                asked = Asked(request.method, url, request.headers, await request.read())
                return _response(self.emulator.revoke(asked))
            case at.logout if request.method == "DELETE":
                return _response(self.emulator.log_out(request.headers.get("Authorization", "")))
            case at.account:
                return _response(self.emulator.account(request.headers.get("Authorization", "")))
            case here if at.issuer is not None and here == at.issuer.rstrip("/") + DISCOVERY:
                return web.Response(text=json.dumps(self.emulator.discovery()), content_type="application/json")
            case here:
                self.strays.append(here)
                return web.Response(status=404)

    def _authorize(self, url: str) -> web.Response:
        try:
            where = self.emulator.authorize(url)
        except Refused as refused:
            self.emulator.refusals.append(str(refused))
            return web.Response(status=400, text=f"<h1>Error</h1><p>{refused}</p>", content_type="text/html")
        return web.Response(status=302, headers={"Location": where})


@contextlib.asynccontextmanager
async def serving(emulator: Emulator, tls: ssl.SSLContext) -> AsyncIterator[Provider]:
    """Serve *emulator* at its provider's hosts while the body runs."""
    provider = Provider(emulator)
    runner = web.ServerRunner(web.Server(provider.handle))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        with resolving(hosts(emulator.demands), runner.addresses[0][1]):
            yield provider
    finally:
        await runner.cleanup()


def _response(reply: Reply) -> web.Response:
    headers = {**reply.headers, "Content-Type": reply.type} if reply.body else reply.headers
    return web.Response(status=reply.status, body=reply.body.encode(), headers=headers)
