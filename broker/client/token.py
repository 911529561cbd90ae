"""An access token as a caller holds it: it redacts itself, and measures its life by a clock that nobody sets."""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from broker.client.errors import BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

_MARGIN = 10.0
"""Seconds before a token's end at which to ask for a newer one; a tenth of a short life."""
_STANDARD = frozenset(
    {"access_token", "token_type", "expires_in", "expires_at", "scope", "grant_id", "generation", "provider"}
)
_CLOCK = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", 0))


def clock() -> float:
    """Return seconds that only increase, also while the machine sleeps: a wrong wall clock ends no token."""
    return time.clock_gettime(_CLOCK)


class HeaderValue(str):
    """The value of a header with a secret: `repr`, as errors and logs show headers, hides it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class Token:
    """The current access token of a grant.

    `str`, `repr` and `format` hide it, JSON and pickle reject it; only `value` and `authorization` reveal it.
    """

    __slots__ = (
        "_ends",
        "_margin",
        "_value",
        "expires_at",
        "extra",
        "generation",
        "grant_id",
        "provider",
        "scope",
        "token_type",
    )

    def __init__(self, answer: Mapping[str, Any], *, received_at: float) -> None:
        """Parse a token response.

        Args:
            answer: its members.
            received_at: `clock()` when it arrived; `expires_in` counts from then.

        Raises:
            BrokerUnreachable: it is not a token-broker's response.
        """
        try:
            self._value = str(answer["access_token"])
            life = float(answer["expires_in"])
            self.expires_at = int(answer["expires_at"])
            """Epoch seconds, by the broker's clock."""
            self.generation = int(answer["generation"])
            """The grant's version: a newer token has a higher one."""
            self.grant_id = str(answer["grant_id"])
        except (KeyError, TypeError, ValueError):
            raise BrokerUnreachable("the server is not a token-broker: its response lacks a token's members") from None
        self._ends = received_at + life
        self._margin = min(_MARGIN, life / 10)
        self.provider = str(answer.get("provider", ""))
        self.scope: str | None = answer.get("scope")
        self.token_type = str(answer.get("token_type", "Bearer"))
        self.extra: Mapping[str, Any] = MappingProxyType({k: v for k, v in answer.items() if k not in _STANDARD})
        """Every other member the provider sent, such as `httpsBaseUrl`."""

    @property
    def value(self) -> str:
        """The access token itself: only for the API that it is for."""
        return self._value

    @property
    def authorization(self) -> str:
        """The value of the `Authorization` header that carries it (RFC 6750 §2.1)."""
        return HeaderValue(f"Bearer {self._value}")

    def remaining(self, now: float | None = None) -> float:
        """Return the seconds until it expires at *now* (`clock()`), negative when it has expired."""
        return self._ends - (clock() if now is None else now)

    def lasts(self, now: float, min_ttl: float = 0) -> bool:
        """Return whether at *now* it is valid for *min_ttl* seconds more, and not about to expire."""
        return self.remaining(now) > max(min_ttl, self._margin)

    def __repr__(self) -> str:
        return f"Token(grant_id={self.grant_id!r}, generation={self.generation}, expires_at={self.expires_at})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("an access token is not pickled or copied: ask the broker for it where it is needed")
