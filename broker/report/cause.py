"""One cause of trouble, and the words that most causes share. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.report.facts import UrgentGrant

Status = Literal["ok", "recovering", "login_needed", "failing"]
Kind = Literal[
    "redis",
    "wrong_store",
    "fenced",
    "journal",
    "audit",
    "lost",
    "loop",
    "provider_suspended",
    "provider_failing",
    "provider_missing",
    "login_needed",
    "parked",
    "expired",
    "failing",
    "connections",
]
RANKS: Sequence[Status] = ("ok", "recovering", "login_needed", "failing")
"""From best to worst."""
EXAMPLES = 5
"""Grants that a cause names."""
_NAMED = 3
"""Grants that the summary names."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong. Times are epoch seconds; None: not known, or none."""

    kind: Kind
    status: Status
    """What it makes of the verdict."""
    sentence: str
    """What is wrong, and why, without ids of grants."""
    brief: str
    """The same, and what to do, for the summary: no full stop, and a capital letter for names alone."""
    public_brief: str = ""
    """The same without ids of grants and words of a provider, where it has some: what needs no key shows it."""
    provider: str | None = None
    since: int | None = None
    grants: int | None = None
    unserved: int | None = None
    next: str | None = None
    """What happens next by itself."""
    next_at: int | None = None
    action: str | None = None
    """What a person must do."""
    public_action: str | None = None
    """The same without ids of grants, where it has some."""
    examples: tuple[str, ...] = ()


def list_ids(grants: Sequence[UrgentGrant]) -> tuple[str, ...]:
    """Return the first ids, as examples."""
    return tuple(grant.grant_id for grant in grants[:EXAMPLES])


def name_some(grants: Sequence[UrgentGrant]) -> str:
    """Return the first ids, and how many others there are."""
    return name_ids([grant.grant_id for grant in grants])


def name_ids(ids: Sequence[str]) -> str:
    """Return the first of *ids*, and how many others there are."""
    if len(ids) > _NAMED:
        return f"{', '.join(ids[: _NAMED - 1])} and {len(ids) - _NAMED + 1:,} others"
    return " and ".join([", ".join(ids[:-1]), ids[-1]] if len(ids) > 1 else ids)


def count_grants(n: int) -> str:
    """Return how many grants: `1 grant`, `5 grants`, `10,000 grants`."""
    return "1 grant" if n == 1 else f"{n:,} grants"


def are(n: int) -> str:
    """Return the verb for *n* grants."""
    return "is" if n == 1 else "are"


def were(n: int) -> str:
    """Return the verb for *n* grants."""
    return "was" if n == 1 else "were"


def wait(n: int) -> str:
    """Return the verb for *n* grants."""
    return "waits" if n == 1 else "wait"


def need(n: int) -> str:
    """Return the verb for *n* grants."""
    return "needs" if n == 1 else "need"


def capitalise(text: str) -> str:
    """Return *text* as the beginning of a sentence."""
    return text[:1].upper() + text[1:]
