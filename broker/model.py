"""The words of the house as data: grants, tokens, claims, and what a token request came to.

Pure: no I/O, no clock. Points in time are epoch milliseconds (`…_at`); durations are milliseconds (`…_ms`).

Nobody changes any of it. What is made anew for every token request is `slotted`: the type checker sees to that, where
Python's own frozen dataclass would take more than twice as long to make.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.secret import Secret

T = TypeVar("T")

GRANT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""A grant id, and a provider's name: `fullmatch` it."""

State = Literal["due", "leased", "parked"]
Event = Literal[
    "refreshed",
    "reauthorized",
    "revoked",
    "reauthorization_required",
    "refresh_failing",
    "recovered",
    "reauthorize_soon",
]

NoticeEvent = Literal[
    "reauthorization_required", "reauthorize_soon", "refresh_failing", "provider_suspended", "recovered"
]
"""What people are told of, by webhook or command."""


OldToken = Literal["survives", "dies"]
"""What a refresh does to the access token before it: the values of the setting `old_token`."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def slotted(cls: type[T]) -> type[T]:
    """A dataclass that only the type checker knows to be frozen. Values can be compared, not hashed."""
    return dataclass(slots=True)(cls)


@slotted
class Token:
    """The current access token of a grant, as it is served."""

    grant_id: str
    provider: str
    generation: int
    access_token: Secret
    token_type: str
    scope: str | None
    issued_at: int
    expires_at: int
    refresh_at: int
    usable_until: int
    """Until when callers may plan with it: to its end, or to the planned refresh where that ends it earlier."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """Every other member the provider sent (`httpsBaseUrl`), `id_token` and `refresh_token` never among them."""

    def remaining_ms(self, now: int) -> int:
        """Life left at *now*, never more than the token's whole life: a clock set back adds none."""
        return min(self.expires_at - now, self.expires_at - self.issued_at)


def usable_until(expires_at: int, refresh_at: int, old_token: OldToken) -> int:
    """Return until when callers may plan with a token: to its end, or to the refresh that ends it earlier."""
    return min(expires_at, refresh_at) if old_token == "dies" else expires_at


@dataclass(frozen=True, slots=True)
class Grant:
    """What the store knows of a grant, secrets aside. `token` is absent until the first refresh."""

    grant_id: str
    provider: str
    generation: int
    token: Token | None
    granted_at: int
    reauthorize_by: int | None
    refresh_at: int
    """As planned when its token came; a listing has the time that it is due by now."""
    failures: int
    """Token requests in a row that brought nothing."""
    reason: str | None
    """Why it is parked; None while it is not."""
    last_outcome: str | None
    last_detail: str | None
    last_at: int | None
    unreadable: bool = False
    """None of our keys opens its token."""

    @property
    def parked(self) -> bool:
        """Whether it waits for a person or a probe."""
        return self.reason is not None


@slotted
class Claim:
    """A grant leased to us for one token request."""

    grant_id: str
    provider: str
    generation: int
    attempt: str
    """The id of this token request: its commit may be repeated, another's is refused."""
    refresh_token: Secret
    access_token: Secret | None
    scope: str | None
    issued_at: int | None
    expires_at: int | None
    granted_at: int
    failures: int
    unknown_at: int | None
    """When a token request with this very refresh token went out whose answer nobody saw."""
    due_at: int
    claimed_at: int
    lease_ends: float
    """`time.monotonic()` seconds, measured from before the claim was sent."""


@slotted
class TokenResponse:
    """A successful answer of a token endpoint (RFC 6749 §5.1), read leniently.

    `access_token` is None when it could not be used (`problem` says why) although the answer carried a refresh
    token that must not be lost.
    """

    access_token: Secret | None
    refresh_token: Secret | None
    token_type: str
    lifetime_ms: int | None
    """None: absent, zero, negative or absurd; the dialect's `default_lifetime` holds."""
    refresh_in_ms: int | None
    scope: str | None
    extra: Mapping[str, object]
    warnings: tuple[str, ...] = ()
    problem: str | None = None


@slotted
class Answered:
    """2xx with something to keep. Whether *refreshed* or *unchanged* shows against the token held."""

    answer: TokenResponse


@dataclass(frozen=True, slots=True)
class NotSent:
    """Nothing reached the server: refused, DNS, TLS, connect time-out, too late to send, no discovery."""

    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Busy:
    """429, 503 or a code that says "later": nothing was redeemed."""

    code: str
    detail: str = ""
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Sent, and nobody knows whether the refresh token was redeemed."""

    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class InvalidGrant:
    """The server says the refresh token is no longer good."""

    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class InvalidClient:
    """The server refuses *us*: client id or secret, not this grant."""

    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Any other refusal: sent exactly once, then a person looks."""

    code: str
    detail: str = ""


Outcome = Answered | NotSent | Busy | Unknown | InvalidGrant | InvalidClient | Rejected


@slotted
class Commit:
    """Keep what an answer brought. With the generation claimed, it is the same access token as before."""

    claim: Claim
    outcome: str
    detail: str | None
    token: Token | None
    """What is served from now on; None: nothing changes but the refresh token and the due time."""
    refresh_token: Secret | None
    """None: the answer carried none, the old one stays."""
    refresh_at: int
    reauthorize_by: int | None
    failures: int
    answered_at: int
    recovered: bool

    @property
    def fresh(self) -> bool:
        """Whether there is a new generation to serve and publish."""
        return self.token is not None and self.token.generation != self.claim.generation


@dataclass(frozen=True, slots=True)
class Postpone:
    """Nothing came of it; try again at `due_at`."""

    claim: Claim
    outcome: str
    code: str
    detail: str
    due_at: int
    failures: int
    unknown: bool = False
    lane: Literal["", "ailing", "suspended"] = ""
    not_before: int = 0
    failing: bool = False
    """Whether this failure is the one to tell subscribers about."""
    asked: bool = True
    """False: no token request was made, only the time of one was put off."""


@dataclass(frozen=True, slots=True)
class Park:
    """Refused: ask no more until a person or a retry says so."""

    claim: Claim
    outcome: str
    reason: str
    detail: str
    event: Event
    code: str = ""
    """What the server called it, where that is not the reason."""


Step = Commit | Postpone | Park
