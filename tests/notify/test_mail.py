"""Notices by mail through a real SMTP server: with TLS and a password, refused, stalled, and without what it needs."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult

from broker.notify.channels.channel import NotDelivered
from broker.notify.channels.mail import Mail, Server
from tests.notify.cases import CONDITIONS, every_notice, notice_of
from tests.ports import free_port
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.notify.notice import Notice

HOST = "127.0.0.2"
"""Beyond loopback, as far as the settings know: TLS is asked for."""


class Inbox:
    """What the server got, and how it behaves."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.refuse: dict[str, str] = {}
        self.logins: list[tuple[bytes, bytes]] = []

    async def handle_RCPT(  # noqa: N802 - a hook of aiosmtpd
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if address not in self.refuse:
            envelope.rcpt_tos.append(address)
        return self.refuse.get(address, "250 OK")

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - a hook of aiosmtpd
        self.messages.append((envelope.rcpt_tos, message_from_bytes(envelope.content, policy=policy.default)))
        return "250 OK"

    def authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"pass word", handled=False)


class Session(SMTP):
    """One connection of the server, whose transports the server closes itself: a failed handshake leaves one open."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.transports: list[Any] = []
        self.sockets: list[Any] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transports.append(transport)
        self.sockets.append(transport.get_extra_info("socket"))
        super().connection_made(transport)

    async def close(self) -> None:
        """Close what the client has left open, and wait until it is closed."""
        for transport in self.transports:
            transport.abort()
        await until(lambda: all(each.fileno() == -1 for each in self.sockets))
        if self._handler_coroutine is not None:
            await asyncio.gather(self._handler_coroutine, return_exceptions=True)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return an authority for the server's certificate."""
    return trustme.CA()


def trust(authority: trustme.CA) -> ssl.SSLContext:
    """Return what the broker checks certificates against."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@asynccontextmanager
async def mail_server(authority: trustme.CA | None, inbox: Inbox, *, implicit: bool = False) -> AsyncIterator[str]:
    """Serve SMTP: with STARTTLS, or with TLS from the start, by a certificate of *authority*; yield its URL."""
    context = None
    if authority is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(HOST).configure_cert(context)
    loop, port = asyncio.get_running_loop(), free_port()

    sessions: list[Session] = []

    def protocol() -> SMTP:
        session = Session(
            inbox,
            tls_context=None if implicit else context,
            require_starttls=context is not None and not implicit,
            authenticator=inbox.authenticate,
            auth_require_tls=False,
            loop=loop,
        )
        sessions.append(session)
        return session

    server = await loop.create_server(protocol, HOST, port, ssl=context if implicit else None)
    async with server:
        yield f"{'smtps' if implicit else 'smtp'}://{HOST}:{port}"
        for session in sessions:
            await session.close()


async def send(notice: Notice, url: str, *to: str, timeout: float = 10, **more: Any) -> str:
    """Send a notice by mail through a channel of its own."""
    channel = Mail("post", Server(url, "broker@example.com", to or ("ops@example.com",), **more), timeout)
    try:
        return await channel.send(notice)
    finally:
        channel.close()


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "tls"])
async def test_delivered(authority: trustme.CA, *, implicit: bool) -> None:
    """Every kind of notice arrives as a mail that people read, over TLS and after a login; its id is the Message-ID."""
    inbox = Inbox()
    async with mail_server(authority, inbox, implicit=implicit) as url:
        to = ("ops@example.com", "b@example.com")
        more: dict[str, Any] = {"login": ("jane", "pass word"), "trust": trust(authority)}
        notices = [notice_of("reauthorization_required", CONDITIONS["reauthorization_required"], "grant/g-1")]
        if not implicit:
            notices += every_notice()
        for notice in notices:
            assert await send(notice, url, *to, **more) == "accepted for 2 of 2"
    assert inbox.logins[0] == (b"jane", b"pass word")
    recipients, message = inbox.messages[0]
    assert recipients == ["ops@example.com", "b@example.com"]
    assert (message["Subject"], message["From"]) == ("Log in again: g-1", "broker@example.com")
    assert message["Message-ID"] == "<msg_1@example.com>"
    assert message["Auto-Submitted"] == "auto-generated"
    text = message.get_content()
    assert "Do: token-broker login g-1 --provider acme" in text
    assert "Owner: Jane <Doe> & Söhne" in text
    assert "https://broker.test/b/#search=g-1" in text
    assert len(inbox.messages) == len(notices)


async def test_refused(authority: trustme.CA) -> None:
    """A wrong password, an unknown recipient and a certificate of nobody are named, without the server's text."""
    inbox = Inbox()
    notice = every_notice()[0]
    async with mail_server(authority, inbox) as url:
        known: dict[str, Any] = {"trust": trust(authority)}
        with pytest.raises(NotDelivered, match=r"responded with 535 \(SMTPAuthenticationError\)"):
            await send(notice, url, login=("jane", "wrong"), **known)
        inbox.refuse = {"a@example.com": "550 nobody here"}
        with pytest.raises(NotDelivered, match=r"refused every recipient: a@example.com \(550\)"):
            await send(notice, url, "a@example.com", **known)
        sent = await send(notice, url, "a@example.com", "b@example.com", **known)
        assert sent == "accepted for 1 of 2, not for a@example.com"
        with pytest.raises(NotDelivered, match="cannot be used"):
            await send(notice, url)
    assert len(inbox.messages) == 1
    with pytest.raises(NotDelivered, match="cannot be used"):
        await send(notice, url)


async def test_no_tls() -> None:
    """A server without STARTTLS gets nothing, and the message says what to do; allow_http sends all the same."""
    inbox = Inbox()
    async with mail_server(None, inbox) as url:
        with pytest.raises(NotDelivered, match=r"STARTTLS .*smtps:// .*allow_http"):
            await send(every_notice()[0], url, login=("jane", "pass word"))
        assert not inbox.logins
        assert await send(every_notice()[0], url, plain=True) == "accepted for 1 of 1"


@pytest.mark.parametrize("greeting", [b"", b"2"], ids=["silent", "dripping"])
async def test_a_server_that_stalls(greeting: bytes) -> None:
    """The time limit holds, the event loop goes on meanwhile, and no thread is left after it."""
    over = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = asyncio.ensure_future(reader.read())
        while not ended.done():
            writer.write(greeting)
            await asyncio.wait({ended}, timeout=0.1)
        with contextlib.suppress(ConnectionError):
            await ended
        writer.close()
        over.set()

    server = await asyncio.start_server(stall, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    began = time.monotonic()
    with pytest.raises(NotDelivered, match="no response in time"):
        await send(every_notice()[0], f"smtp://{HOST}:{port}", timeout=0.5)
    assert time.monotonic() - began < 10
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("notices post")]
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()
    server.close()
    await over.wait()
    await asyncio.sleep(0)
