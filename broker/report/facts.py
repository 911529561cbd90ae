"""The facts that the verdict is made of. Times are epoch seconds; None: not known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class StoreTrouble:
    """Redis cannot be used."""

    kind: Literal["redis", "wrong_store"]
    what: str
    """What is wrong, as a sentence without its full stop: `Redis cannot be reached`."""
    cure: str
    since: int | None = None


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """A provider: its health, and how many grants it has."""

    name: str
    configured: bool = True
    """Whether it is in the settings of this broker."""
    grants: int = 0
    unserved: int = 0
    suspended: str | None = None
    suspended_since: int | None = None
    failures: int = 0
    """Failed token requests in a row, over all its grants."""
    failing_since: int | None = None
    missing_since: int | None = None
    """Since when it has been missing in the settings, as far as this broker knows."""
    detail: str | None = None
    not_before: int | None = None
    """When it gets the next token request at the earliest."""
    next_due: int | None = None
    """When the first of its grants is due, while it fails; None: a request is under way, or nothing is due."""
    next_end_at: int | None = None
    """When the next token of its healthy grants ends."""


@dataclass(frozen=True, slots=True)
class UrgentGrant:
    """A grant that has no valid token, is parked, or fails."""

    grant_id: str
    provider: str
    served: bool
    reason: str | None = None
    """Why it is parked."""
    failures: int = 0
    expires_at: int | None = None
    next_at: int | None = None
    """When its next token request is due."""
    unserved_since: int | None = None
    unreadable: bool = False


@dataclass(frozen=True, slots=True)
class LoopFacts:
    """A loop of the broker that does not do its work."""

    name: str
    what: str
    since: int | None = None
    alive: bool = True
    """Whether it still makes progress."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The valid tokens in the broker's memory, which it serves whatever state Redis is in."""

    tokens: int = 0
    first_end_at: int | None = None
    last_end_at: int | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that one verdict is made of."""

    now: int
    started: bool = True
    """Whether the broker has found its store and runs its loops."""
    stopping: bool = False
    store: StoreTrouble | None = None
    providers: Sequence[ProviderFacts] | None = ()
    """None: not known, since Redis did not answer, or is still being read."""
    counting: bool = False
    """Whether the store's index of the grants is still being made: soon after an upgrade."""
    grants: Sequence[UrgentGrant] = ()
    """Those that are not well, most urgent first, as many as were read."""
    more_grants: bool = False
    """Whether there may be more of them than were read."""
    fenced_until: int | None = None
    fenced_since: int | None = None
    unproved: str = ""
    """Why commits cannot be proved to be on the disks of Redis and its replicas."""
    journal_fault: str = ""
    journal_since: int | None = None
    audit_fault: str = ""
    """Why the audit stream cannot be written."""
    audit_refuses: bool = False
    """Whether callers get nothing meanwhile (`audit.on_failure`)."""
    audit_since: int | None = None
    lost: Sequence[str] = ()
    """The ids of grants whose data Redis lost, and that no journal restores."""
    lost_since: int | None = None
    loops: Sequence[LoopFacts] = ()
    connections: str = ""
    """What is wrong with the connections of callers, and what to do."""
    connections_since: int | None = None
    memory: Memory = field(default_factory=Memory)
