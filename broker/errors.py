"""Exceptions of the daemon; `api` maps each to a status.

Messages hold codes, statuses and ids, never a body or a token.
"""

from __future__ import annotations

from typing import Any


class BrokerError(Exception):
    """Base of all exceptions here. `code` is the wire's `error`; the message is its `error_description`."""

    code = "server_error"
    retry_after: float | None = None
    """Seconds after which another request may succeed, if that is known."""
    denied: str | None = None
    """Why access was denied, for the log and the counter; None: it was not."""
    caller: str | None = None
    """Whose request was denied, where that is known."""

    def __init__(self, message: str, *, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.retry_after = retry_after


class InvalidSettings(BrokerError):
    """The settings are wrong: exit 78. Each finding is one line: what is wrong, where, and how to correct it."""

    code = "invalid_settings"

    def __init__(self, *findings: str) -> None:
        self.findings = tuple(map(_visible, findings))
        super().__init__("\n".join(self.findings))


class InvalidRequest(BrokerError):
    """The request is wrong, and fails again if it is repeated (400)."""

    code = "invalid_request"


class EncodedBody(InvalidRequest):
    """The body is compressed; the broker inflates none (415)."""


class Denied(BrokerError):
    """Access was denied: `denied` says why, and `caller` to whom, where that is known."""

    def __init__(self, message: str, *, denied: str | None = None, caller: str | None = None, **more: Any) -> None:
        super().__init__(message, **more)
        self.denied = denied or self.denied
        self.caller = caller


class UnknownKey(Denied):
    """There is no key, or no caller has it (401)."""

    code = "invalid_token"
    denied = "unknown_key"


class NotAllowed(Denied):
    """The caller is known, but lacks the right (403)."""

    code = "access_denied"
    denied = "no_right"


class QuotaExceeded(Denied):
    """The caller asks for more than its quota allows (429)."""

    code = "quota_exceeded"
    denied = "quota_requests"


class AuditUnavailable(BrokerError):
    """The audit stream cannot be written, and the settings refuse to act without it (503)."""

    code = "audit_unavailable"


class UnknownGrant(BrokerError):
    """There is no such grant; only callers with the right to it are told so (404)."""

    code = "not_found"


class Conflict(BrokerError):
    """Something else holds what the request needs (409)."""

    code = "conflict"


class ReauthorizationRequired(BrokerError):
    """The provider no longer accepts the grant, and no valid token is left: a person must log in (409)."""

    code = "reauthorization_required"
    login_url: str | None = None
    """The status page at this grant, if a browser can open it."""


class TooFresh(BrokerError):
    """The token is too fresh to refresh again (429)."""

    code = "too_fresh"


class TokenUnavailable(BrokerError):
    """There is no token to serve right now (503)."""

    code = "token_unavailable"


class StoreUnavailable(TokenUnavailable):
    """Redis cannot be reached, is loading, or refuses: whether a call ran is not known (503)."""

    code = "store_unavailable"
    cure = "start Redis, repair the network to it, or correct redis.url"
    """What the operator does about it: for log, health and checks, not for callers."""

    def __init__(self, message: str, *, cure: str | None = None) -> None:
        super().__init__(message)
        self.cure = cure or self.cure


class WrongStore(StoreUnavailable):
    """Redis answers, but holds another store than this broker knows (503)."""

    code = "not_our_store"


class MovedStore(WrongStore):
    """The store that this broker knows is being moved to another Redis, or was (503)."""


class DamagedSchedule(StoreUnavailable):
    """A key of one provider's schedule holds something else than grants; nothing was done (503)."""


class ProviderUnavailable(BrokerError):
    """The provider did not answer a code exchange or a revocation (502)."""

    code = "temporarily_unavailable"


class ProviderRefused(BrokerError):
    """The provider refused a code exchange (502); the message quotes its response, bounded and escaped."""

    code = "provider_refused"


def _visible(finding: str) -> str:
    """Return a finding as one line: a key of a file may hold line breaks and what controls a terminal."""
    if finding.isprintable():
        return finding
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in finding)
