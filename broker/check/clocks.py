"""How far clocks are apart, and what that means. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.check.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

FAR = 5.0
"""Seconds. A Date header holds whole seconds, and ages while it travels."""


def check_clock(whose: str, offset: float | None) -> Iterator[Finding]:
    """Yield findings about a clock. *offset*: seconds by which this host's clock is ahead of the one of *whose*."""
    if offset is None:
        yield Finding("unknown", whose, "its time", "the server does not send it")
    elif abs(offset) > FAR:
        yield Finding(
            "warning",
            whose,
            f"this host's clock is {abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} the server's",
            "the broker uses Redis's clock and lifetimes; times in logs here, and expires_at for readers with the "
            "other clock, are wrong by as much",
            "synchronise the clocks (chronyc tracking, timedatectl)",
        )
    else:
        yield Finding("ok", whose, f"this host's clock and the server's are {abs(offset):.1f} s apart")
