"""Deliver notices by mail: smtplib in a thread of its own, which a stalled server cannot hold beyond the time limit."""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from broker.notify.channels import chat
from broker.notify.channels.channel import NotDelivered
from broker.notify.words import title
from broker.settings.values import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.notify.notice import Notice


@dataclass(frozen=True, slots=True)
class Server:
    """A mail server and how to send through it."""

    url: str
    """smtp:// (STARTTLS) or smtps://, with host and port."""
    sender: str
    to: Sequence[str]
    login: tuple[str, str] | None = field(default=None, repr=False)
    """User and password."""
    plain: bool = False
    """No TLS is asked for beyond loopback."""
    trust: ssl.SSLContext | None = None
    """What the server's certificate is checked against; None: the system's authorities."""


class Mail:
    """Send one message to all recipients for each notice; the server's acceptance of it accepts the notice."""

    def __init__(self, name: str, server: Server, timeout: float) -> None:
        """Prepare to send through *server*, each message within *timeout* seconds; *name* is the channel's."""
        self.name = name
        self._server = server
        self._timeout = timeout
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"notices {name}")
        self._session: smtplib.SMTP | None = None

    async def send(self, notice: Notice) -> str:
        """Send the notice once.

        Returns:
            How many recipients the server accepted.

        Raises:
            NotDelivered: the server cannot be reached, did not respond in time, or refused the message.
        """
        message = make_message(notice, self._server)
        sending = asyncio.get_running_loop().run_in_executor(self._thread, self._send, message)
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.shield(sending)
        except TimeoutError:
            raise NotDelivered("no response in time") from None
        except smtplib.SMTPRecipientsRefused as error:
            codes = ", ".join(f"{to} ({code})" for to, (code, _) in error.recipients.items())
            raise NotDelivered(f"the mail server refused every recipient: {codes}") from None
        except smtplib.SMTPResponseException as error:
            raise NotDelivered(f"the mail server responded with {error.smtp_code} ({type(error).__name__})") from None
        except smtplib.SMTPNotSupportedError as error:
            raise NotDelivered(f"{error} Use smtps:// if the mail server has it, or allow_http = true") from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise NotDelivered(f"the mail server cannot be used ({reason})") from None
        finally:
            if not sending.done():
                sending.add_done_callback(_retrieve)
                self._break()

    def close(self) -> None:
        """Let the thread go; one that still waits for the server ends at once."""
        self._break()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _break(self) -> None:
        """End a session that is under way in the thread: its next read or write fails."""
        if (session := self._session) is not None and (connection := session.sock) is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _send(self, message: EmailMessage) -> str:
        parts = urlsplit(self._server.url)
        host, tls = parts.hostname or "", parts.scheme == "smtps"
        trust = self._server.trust or ssl.create_default_context()
        session = smtplib.SMTP_SSL(timeout=self._timeout, context=trust) if tls else smtplib.SMTP(timeout=self._timeout)
        self._session = session
        try:
            session._host = host  # type: ignore[attr-defined]  # noqa: SLF001 - which name TLS checks; only the constructor, which connects at once, sets it
            session.connect(host, parts.port or (465 if tls else 587))
            if not tls and host not in LOOPBACK and not self._server.plain:
                session.starttls(context=trust)
            if self._server.login is not None:
                session.login(*self._server.login)
            refused = session.send_message(message)
        finally:
            with contextlib.suppress(smtplib.SMTPException, OSError):
                session.quit()
            self._session = None
        count = len(self._server.to)
        return f"accepted for {count - len(refused)} of {count}" + (
            f", not for {', '.join(refused)}" if refused else ""
        )


def make_message(notice: Notice, server: Server) -> EmailMessage:
    """Return the mail of a notice. Every try has the same Message-ID, by which mailboxes know a repetition."""
    message = EmailMessage()
    message["Subject"] = chat.cut(title(notice), 200)
    message["From"] = server.sender
    message["To"] = ", ".join(server.to)
    message["Date"] = format_datetime(datetime.fromtimestamp(notice.at // 1000, UTC))
    message["Message-ID"] = f"<{notice.id}@{server.sender.partition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation responder shall answer
    message.set_content(chat.text(notice))
    return message


def _retrieve(sending: asyncio.Future[str]) -> None:
    """Retrieve the exception: nobody waits for it any more."""
    if not sending.cancelled():
        sending.exception()
