"""A grant whose data in Redis no broker wrote: a key of another type, bytes that are no text, times that are no times.

It is named like one that was tampered with, and never keeps others from being listed, claimed or counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.model import Grant
from broker.store.fields import whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

UNUSABLE = (ValueError, KeyError, TypeError, ArithmeticError, RecursionError)
"""What parsing a damaged hash raises."""
NO_HASH = "its key holds no hash"
_NEEDED = ("provider", "generation", "granted_at", "refresh_at")
_NUMBERS = frozenset(
    {
        *("generation", "granted_at", "refresh_at", "issued_at", "expires_at", "reauthorize_by", "failures", "last_at"),
        *("answered_at", "attempt_at", "unknown_at"),
    }
)


def find_damage(raw: Mapping[str, bytes | None], sealed: frozenset[str]) -> str:
    """Return which field of a hash is damaged, without its value.

    Args:
        raw: The fields.
        sealed: Names of those that are sealed.
    """
    for name, value in raw.items():
        if value is None:
            if name in _NEEDED:
                return f"{name} is missing"
        elif name in _NUMBERS:
            try:
                whole(value.decode())
            except ValueError:
                return f"{name} is no number"
        elif name not in sealed:
            try:
                value.decode()
            except UnicodeDecodeError:
                return f"{name} is no text"
    return "its fields do not fit together"


def damaged_grant(
    grant_id: str, provider: bytes | str | None, why: str, now: int, generation: bytes | None = None
) -> Grant:
    """Return what can be said of such a grant: that it is parked as tampered, and why.

    Args:
        grant_id: Its id.
        provider: Whose it is, as far as that is known.
        why: What is wrong.
        now: Epoch ms.
        generation: As far as that is known.
    """
    text = provider.decode("ascii", "ignore") if isinstance(provider, bytes) and provider.isascii() else provider
    return Grant(
        grant_id=grant_id,
        provider=text if isinstance(text, str) else "",
        generation=numbers([generation])[0] or 0,
        token=None,
        granted_at=0,
        reauthorize_by=None,
        refresh_at=0,
        failures=0,
        reason="tampered",
        last_outcome="tampered",
        last_detail=f"{why}: find out who writes Redis, then log in again",
        last_at=now,
        unreadable=True,
        tampered=why,
    )


def list_or_empty(reply: list[bytes] | BaseException) -> list[bytes]:
    """Return a reply of `Primary.pipeline_each` that is a list; a key of another type holds nothing."""
    return [] if isinstance(reply, BaseException) else reply


def numbers(row: Sequence[bytes | None]) -> list[int | None]:
    """Return times of a hash; None for each that is missing or no number."""
    found: list[int | None] = []
    for value in row:
        try:
            found.append(None if value is None else whole(value.decode()))
        except ValueError:
            found.append(None)
    return found
