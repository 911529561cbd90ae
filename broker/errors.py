"""Errors, named by what whoever meets them must do.

Messages hold codes, statuses and ids, never a body or a token. `api` turns each into a status by one table.
"""

from __future__ import annotations


class BrokerError(Exception):
    """Base of all. `code` is the wire's `error`; the message is its `error_description`."""

    code = "server_error"
    retry_after: float | None = None
    """Seconds after which asking again helps, where that is known."""

    def __init__(self, message: str, *, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.retry_after = retry_after


class InvalidSettings(BrokerError):
    """The settings are wrong: exit 78. Each finding is one line that says what, where and the way out."""

    code = "invalid_settings"

    def __init__(self, *findings: str) -> None:
        super().__init__("\n".join(findings))
        self.findings = findings


class InvalidRequest(BrokerError):
    """The request is wrong and will be again (400)."""

    code = "invalid_request"


class UnknownKey(BrokerError):
    """No key, or one nobody knows (401)."""

    code = "invalid_token"


class NotAllowed(BrokerError):
    """A known caller without the right (403)."""

    code = "access_denied"


class UnknownGrant(BrokerError):
    """No such grant, said only to who may know (404)."""

    code = "not_found"


class Conflict(BrokerError):
    """Something else holds what the request wants (409)."""

    code = "conflict"


class ReauthorizationRequired(BrokerError):
    """The grant is dead and nothing valid is left: a person must log in (409)."""

    code = "reauthorization_required"
    login_url: str | None = None
    """The status page at this grant, where a browser can open it."""


class TooFresh(BrokerError):
    """The token is too fresh to refresh again (429)."""

    code = "too_fresh"


class TokenUnavailable(BrokerError):
    """No token can be had right now (503)."""

    code = "token_unavailable"


class StoreUnavailable(TokenUnavailable):
    """Redis cannot be reached, is loading, or refuses: nothing is known, nothing was decided."""

    code = "store_unavailable"


class WrongStore(StoreUnavailable):
    """Redis answers, but it is not the store we have seen before, or keys do not open it."""

    code = "not_our_store"


class ProviderUnavailable(BrokerError):
    """The provider did not answer a code exchange or a revocation (502)."""

    code = "temporarily_unavailable"


class ProviderRefused(BrokerError):
    """The provider refused a code exchange (502): the message says what it said, bounded and escaped."""

    code = "provider_refused"
