"""A claim on a grant, as decisions take it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from broker.model import (
    Claim,
)
from broker.secret import Secret

NOW = 1_800_000_000_000


HOUR = 3_600_000


def claim(**changes: Any) -> Claim:
    """Return a claim on a grant whose token is three quarters through its hour."""
    made = Claim(
        grant_id="g",
        provider="p",
        generation=5,
        attempt="a",
        refresh_token=Secret("r1"),
        access_token=Secret("a1"),
        scope=None,
        issued_at=NOW - HOUR * 3 // 4,
        expires_at=NOW + HOUR // 4,
        granted_at=NOW - 10 * HOUR,
        failures=0,
        unknown_at=None,
        due_at=NOW,
        claimed_at=NOW,
        lease_ends=0.0,
    )
    return replace(made, **changes)
