"""Why a request was not sent, or got no answer: exceptions of aiohttp as outcomes. Pure.

The line between the two is the promise of `http`: `not_sent` for a failure before the request's header was written,
`after_sending` for one after it. A refusal of a proxy comes before it.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import aiohttp

from broker.errors import InvalidSettings
from broker.model import NotSent, Unknown

if TYPE_CHECKING:
    from broker.providers.proxy import Hop

TOO_LATE = NotSent("too_late", "no time was left to send the request")
MALFORMED = Unknown("malformed", "the response is not HTTP")
_OF_NO_PROXY = frozenset({"too_late", "invalid_url"})
_PROXY_AUTHENTICATION_REQUIRED = 407


class TooLateToSend(Exception):
    """The deadline passed between connecting and sending."""


def not_sent(error: Exception, hop: Hop | None = None) -> NotSent:
    """Return why nothing was sent to the server; through a *hop* the words name it.

    The words come from OpenSSL and the C library, which know host names at most.
    """
    fault = _before_sending(error)
    if hop is None or fault.code in _OF_NO_PROXY:
        return fault
    match error:
        case TimeoutError():
            return NotSent(fault.code, f"{fault.detail}, through the proxy {hop.name}")
        case aiohttp.ClientHttpProxyError():
            return refused_connect(error.status, hop)
        case aiohttp.ClientConnectorError() | aiohttp.ClientConnectorCertificateError():
            if (error.host, error.port) == (hop.url.raw_host, hop.url.port):
                return NotSent("proxy_unreachable", f"the proxy {hop.name} cannot be reached: {fault.detail}")
            return NotSent(fault.code, f"{fault.detail} (through the proxy {hop.name})")
        case aiohttp.ClientResponseError():
            return NotSent("proxy_failed", f"the proxy {hop.name} does not answer CONNECT with HTTP")
        case aiohttp.ClientError() | OSError():
            return NotSent("proxy_failed", f"the proxy {hop.name} closed the connection before the tunnel stood")
        case _:
            return fault


def refused_connect(status: int, hop: Hop) -> NotSent:
    """Return what an answer of the proxy to CONNECT means that is no tunnel."""
    cure = ": it asks for other credentials" if status == _PROXY_AUTHENTICATION_REQUIRED else ""
    return NotSent("proxy_refused", f"the proxy {hop.name} refused with HTTP {status}{cure}")


def refused_by_proxy(status: int, hop: Hop) -> NotSent | None:
    """Return the refusal in an answer to a request; None: the answer may be the server's.

    Within a tunnel every answer is the server's. Without one only 407 is surely the proxy's (RFC 9110 §15.5.8): a 502
    or 504 may follow after the server got the request.
    """
    if hop.tunnel or status != _PROXY_AUTHENTICATION_REQUIRED:
        return None
    return refused_connect(status, hop)


def _before_sending(error: Exception) -> NotSent:
    match error:
        case TooLateToSend():
            return TOO_LATE
        case TimeoutError():
            return NotSent("connect_timeout", "no connection within the time for one request")
        case aiohttp.ClientConnectorCertificateError():
            cause = error.certificate_error
            reason = getattr(cause, "verify_message", None) or type(cause).__name__
            return NotSent("tls", f"the server's certificate is not accepted: {reason}")
        case aiohttp.ClientConnectorSSLError():
            reason = getattr(error.os_error, "reason", None) or type(error.os_error).__name__
            return NotSent("tls", f"the TLS handshake failed: {reason}")
        case aiohttp.ClientConnectorDNSError():
            return NotSent("dns", error.os_error.strerror or "the name could not be resolved")
        case InvalidSettings():
            return NotSent("proxy_credentials_unreadable", str(error))
        case ValueError():
            return NotSent("invalid_url", "the endpoint's URL is not valid")
        case aiohttp.ClientConnectorError():
            return _not_connected(error.os_error)
        case OSError():
            return _not_connected(error)
        case _:
            return NotSent("unexpected", type(error).__name__)


def _not_connected(error: OSError) -> NotSent:
    number = error.errno
    words = os.strerror(number) if number else type(error).__name__
    if isinstance(error, socket.gaierror):
        return NotSent("dns", error.strerror or words)
    if isinstance(error, ConnectionRefusedError) or number == errno.ECONNREFUSED:
        return NotSent("connection_refused", words)
    if isinstance(error, ConnectionResetError | ConnectionAbortedError):
        what = "the connection ended before the request was sent, in the TLS handshake if there is one"
        return NotSent("connection_reset", f"{what}: {words}")
    if number in {errno.ENETUNREACH, errno.EHOSTUNREACH}:
        return NotSent("unreachable", words)
    if number == errno.ETIMEDOUT:
        return NotSent("connect_timeout", words)
    return NotSent("connection_failed", words)


def after_sending(error: Exception) -> Unknown:
    """Return what went wrong after the request was sent."""
    match error:
        case TimeoutError():
            return Unknown("timeout", "no complete response within the time for one request")
        case aiohttp.ServerDisconnectedError():
            return Unknown("disconnected", "the server closed the connection without a response")
        case aiohttp.ClientPayloadError():
            return Unknown("truncated", "the response ended too early")
        case aiohttp.ClientResponseError():
            return MALFORMED
        case OSError():
            words = os.strerror(error.errno) if error.errno else type(error).__name__
            return Unknown("reset", f"the connection was lost: {words}")
        case _:
            return Unknown("unexpected", type(error).__name__)
