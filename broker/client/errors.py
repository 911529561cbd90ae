"""What a caller of the client is told, named by what it must do. No message holds a key or a token."""

from __future__ import annotations


class BrokerError(Exception):
    """Base of all. The message says what is wrong and what to do."""

    retry_after: float | None = None
    """Seconds after which asking again may help, where that is known."""

    def __init__(self, message: str, *, grant_id: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.grant_id = grant_id
        self.retry_after = retry_after


class InvalidConfiguration(BrokerError, ValueError):
    """The address, the key or an argument is missing or malformed: nothing was asked."""


class UnknownKey(BrokerError):
    """The broker knows no such key (401): have one made, `token-broker caller new NAME`."""


class NotAllowed(BrokerError):
    """The key is known but has no right on this grant (403): an operator must give it one."""


class UnknownGrant(BrokerError):
    """The broker has no such grant (404): the id is mistyped, or nobody has logged in yet."""


class InvalidRequest(BrokerError):
    """The broker refuses what was asked and will again (400), such as more `min_ttl` than a token ever has."""


class ReauthorizationRequired(BrokerError):
    """The provider no longer accepts the grant (409): a person must log in again.

    `login_url` is where: the broker's status page at this grant, for whoever holds an admin key. None where the broker
    has no address that a browser could open.
    """

    def __init__(self, message: str, *, grant_id: str | None = None, login_url: str | None = None) -> None:
        super().__init__(message, grant_id=grant_id)
        self.login_url = login_url


class TokenUnavailable(BrokerError):
    """No valid token right now (429, 5xx): try again, after `retry_after` seconds where that is known."""


class BrokerUnreachable(TokenUnavailable):
    """No broker answers at the address: it is down, restarting, or elsewhere."""
