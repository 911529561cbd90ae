"""An access token in a caller's hands: it redacts itself, and knows how long it lives by a clock nobody sets."""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from broker.client.errors import BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

_MARGIN = 10.0
"""Seconds of life below which the broker is asked for a newer token; a tenth of a short life."""
_STANDARD = frozenset(
    {"access_token", "token_type", "expires_in", "expires_at", "scope", "grant_id", "generation", "provider"}
)
_CLOCK = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", 0))


def clock() -> float:
    """Seconds that only go forward, and go on while the machine sleeps: a wall clock set wrong ends no token."""
    return time.clock_gettime(_CLOCK)


class HeaderValue(str):
    """The value of a header that carries a secret: whoever shows the headers in an error or a log does not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class Token:
    """The current access token of a grant.

    `str`, `repr` and `format` hide it, JSON and pickle refuse it; only `value` and `authorization` give it away.
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

    def __init__(self, answer: Mapping[str, Any], *, answered_at: float) -> None:
        """Of a token *answer*; its `expires_in` counts from *answered_at* (`clock()`). Raises `BrokerUnreachable`."""
        try:
            self._value = str(answer["access_token"])
            life = float(answer["expires_in"])
            self.expires_at = int(answer["expires_at"])
            """Epoch seconds, by the broker's clock."""
            self.generation = int(answer["generation"])
            """The grant's version: a newer token has a greater one."""
            self.grant_id = str(answer["grant_id"])
        except (KeyError, TypeError, ValueError):
            raise BrokerUnreachable("what answers is no token-broker: its answer lacks a token's members") from None
        self._ends = answered_at + life
        self._margin = min(_MARGIN, life / 10)
        self.provider = str(answer.get("provider", ""))
        self.scope: str | None = answer.get("scope")
        self.token_type = str(answer.get("token_type", "Bearer"))
        self.extra: Mapping[str, Any] = MappingProxyType({k: v for k, v in answer.items() if k not in _STANDARD})
        """Every other member the provider sent, such as `httpsBaseUrl`."""

    @property
    def value(self) -> str:
        """The access token itself: only for the API it is meant for."""
        return self._value

    @property
    def authorization(self) -> str:
        """The value of the `Authorization` header that carries it (RFC 6750 §2.1)."""
        return HeaderValue(f"Bearer {self._value}")

    def remaining(self, now: float | None = None) -> float:
        """Seconds of life at *now* (`clock()`), negative when it has expired."""
        return self._ends - (clock() if now is None else now)

    def lasts(self, now: float, min_ttl: float = 0) -> bool:
        """Whether at *now* it has *min_ttl* seconds of life, and more than its last few."""
        return self.remaining(now) > max(min_ttl, self._margin)

    def __repr__(self) -> str:
        return f"Token(grant_id={self.grant_id!r}, generation={self.generation}, expires_at={self.expires_at})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("an access token is not pickled or copied: ask the broker for it where it is needed")
