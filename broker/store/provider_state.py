"""The health of a provider, and how many grants it has, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.model import State


@dataclass(frozen=True, slots=True)
class ProviderState:
    """The health of a provider as the store knows it, and how many grants it has in each state."""

    name: str
    suspended: str | None
    suspended_at: int | None
    not_before: int | None
    ailing: int
    detail: str | None
    counts: Mapping[State, int]
    answered_at: int | None = None
    """When it last answered a request (epoch ms); None: no broker wrote that down (see `answered`)."""
    failing_since: int | None = None
    """When the first of the failures in a row was recorded (epoch ms); of no meaning without any."""
