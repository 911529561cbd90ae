"""How far clocks are apart, and what that means. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.check.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

FAR = 5.0
"""Seconds. A Date header tells whole seconds, and comes late by the time it travels."""


def of_clock(whose: str, offset: float | None) -> Iterator[Finding]:
    """*offset*: seconds that our clock is ahead of the clock of *whose*."""
    if offset is None:
        yield Finding("unknown", whose, "what time it is there", "it does not say")
    elif abs(offset) > FAR:
        yield Finding(
            "warning",
            whose,
            f"our clock is {abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} its clock",
            "the broker goes by Redis's clock and by lifetimes; times in logs here, and expires_at for whoever has the "
            "other clock, are off by that",
            "synchronise clocks (chronyc tracking, timedatectl)",
        )
    else:
        yield Finding("ok", whose, f"our clocks are {abs(offset):.1f} s apart")
