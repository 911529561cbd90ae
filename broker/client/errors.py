"""The exceptions of the client. No message holds a key or a token."""

from __future__ import annotations


class BrokerError(Exception):
    """Base of all. The message says what is wrong and what to do about it."""

    retry_after: float | None = None
    """Seconds after which a retry may succeed, if known."""

    def __init__(self, message: str, *, grant_id: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.grant_id = grant_id
        self.retry_after = retry_after


class InvalidConfiguration(BrokerError, ValueError):
    """The address, the key or an argument is missing or malformed: nothing was sent."""


class UnknownKey(BrokerError):
    """The broker does not know the key (401): have one made, `token-broker caller new NAME`."""


class NotAllowed(BrokerError):
    """The key is known but has no right on this grant (403): an operator must give it one."""


class UnknownGrant(BrokerError):
    """The broker has no such grant (404): the id is wrong, or nobody has logged in yet."""


class InvalidRequest(BrokerError):
    """The broker rejects the request and always will (400), such as more `min_ttl` than a token ever has."""


class ReauthorizationRequired(BrokerError):
    """The provider no longer accepts the grant (409): a person must log in again.

    `login_url` is where: the broker's status page at this grant, for a person with an admin key. None if the broker
    has no address that a browser could open.
    """

    def __init__(self, message: str, *, grant_id: str | None = None, login_url: str | None = None) -> None:
        super().__init__(message, grant_id=grant_id)
        self.login_url = login_url


class TokenUnavailable(BrokerError):
    """No valid token at the moment (429, 5xx): retry, after `retry_after` seconds if known."""


class BrokerUnreachable(TokenUnavailable):
    """No broker responds at the address: it is down, restarting, or elsewhere."""
