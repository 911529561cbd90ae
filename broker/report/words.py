"""The state of a grant in words that need no glossary; codes and the names of the schedule stay in JSON. Pure."""

from __future__ import annotations

from broker.report.times import span

NEEDS_LOGIN = "needs a login"
_DEAD = "reauthorization_required"
_OVERDUE_AFTER = 30
"""Seconds past its time after which a refresh is late: until then it follows within seconds."""


def state_words(state: str, reason: str | None, expires_at: int | None, failures: int, *, now: float) -> str:
    """Return the state of a grant.

    Args:
        state: The set of the schedule that it is in: due, leased or parked.
        reason: Why it is parked.
        expires_at: When its token ends, epoch seconds; None: it has none.
        failures: Failed token requests in a row.
        now: Epoch seconds.
    """
    if state == "parked":
        return NEEDS_LOGIN if reason == _DEAD else "parked"
    if state == "leased":
        return "refreshing"
    if failures:
        return "waiting to retry"
    if expires_at is None:
        return "waiting for its first token"
    return "alive" if expires_at > now else "waiting for a refresh"


def life_words(expires_at: int | None, now: float) -> str:
    """Return how long a token still lives: `56 min`, or since when it does not: `expired 36 s ago`."""
    if expires_at is None:
        return "no token yet"
    return span(expires_at - now) if expires_at > now else f"expired {span(now - expires_at)} ago"


def refresh_words(at: int | None, now: float) -> str:
    """Return when a refresh is due: `in 41 min`, `now`, or how late it is: `overdue 2 min`."""
    if at is None:
        return "-"
    if at > now:
        return f"in {span(at - now)}"
    return "now" if now - at < _OVERDUE_AFTER else f"overdue {span(now - at)}"
