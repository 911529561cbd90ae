"""Notices through an HTTP proxy: what a receiver gets, and what an operator reads when the proxy refuses."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme

from broker.notify.channels.channel import NotDelivered
from broker.notify.channels.receiver import Receiver
from broker.notify.channels.webhook import Webhook
from broker.notify.notice import Notice
from broker.providers.proxy import Proxy
from broker.settings import Notify, Outgoing
from tests.connect_proxy import connect_proxy
from tests.ports import free_port
from tests.regressions.certificates import server_context
from tests.scripted_server import ScriptedServer, says, scripted_server

if TYPE_CHECKING:
    from pathlib import Path

NAME = "hooks.test"
PAIR = "a-user:a-pass-word"


async def send(server: ScriptedServer, file: Path, url: str, trust: ssl.SSLContext | None = None, **own: Any) -> str:
    """Send one notice to *server* through the proxy at *url*, with the credentials in *file*."""
    settings = Notify(webhook=f"{server.url}/hook", allow_http=True, **own)
    proxy = Proxy.from_settings(
        "notify", settings, Outgoing(proxy=url, proxy_credentials_file=None if url == "none" else file)
    )
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust or True)) as session:
        webhook = Webhook(Receiver(session, f"{server.url}/hook", 3, proxy=proxy), None, lambda: 0)
        return await webhook.send(Notice("msg_1", "test", 0))


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """Return the file with the credentials."""
    file = tmp_path / "proxy_credentials"
    file.write_text(f"{PAIR}\n")
    return file


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_delivered(credentials: Path, *, tls: bool) -> None:
    """The receiver gets the notice once, and nothing that was meant for the proxy."""
    authority = trustme.CA()
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    context = server_context(authority, NAME) if tls else None
    async with (
        scripted_server(says(b""), tls=context, name=NAME) as server,
        connect_proxy(PAIR, names={NAME: server.port}) as proxy,
    ):
        assert await send(server, credentials, proxy.url, trust) == "HTTP 200"
    (request,) = server.requests
    assert (request.path, [name for name in request.headers if name.startswith("proxy")]) == ("/hook", [])
    assert (proxy.tunnels, proxy.forwarded) == (int(tls), int(not tls))


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_refused(credentials: Path, *, tls: bool) -> None:
    """A refusal names the proxy and its status, and shows no credentials."""
    credentials.write_text("a-user:another\n")
    context = server_context(trustme.CA(), NAME) if tls else None
    async with (
        scripted_server(says(b""), tls=context, name=NAME) as server,
        connect_proxy(PAIR, names={NAME: server.port}) as proxy,
    ):
        with pytest.raises(NotDelivered) as caught:
            await send(server, credentials, proxy.url)
        assert str(caught.value) == f"the proxy {proxy.url} refused with HTTP 407: it asks for other credentials"
        gone = f"http://localhost:{free_port()}"
        with pytest.raises(NotDelivered, match=f"the proxy {gone} cannot be reached: Connection refused"):
            await send(server, credentials, gone)
        credentials.unlink()
        with pytest.raises(NotDelivered, match=r"outgoing\.proxy_credentials_file .*No such file"):
            await send(server, credentials, proxy.url)
    assert server.requests == []


async def test_direct(credentials: Path) -> None:
    """`notify.proxy = "none"`, and a receiver on loopback, are reached without the proxy."""
    async with scripted_server(says(b"")) as server:
        gone = f"http://localhost:{free_port()}"
        assert await send(server, credentials, gone) == "HTTP 200"
        assert await send(server, credentials, gone, proxy="none") == "HTTP 200"
        with pytest.raises(NotDelivered, match="cannot be reached"):
            await send(server, credentials, "none", proxy=gone)
