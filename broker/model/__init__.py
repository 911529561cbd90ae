"""The daemon's data: grants, tokens, claims, and what a token request came to.

Pure: no I/O, no clock. Points in time are epoch milliseconds (`…_at`); durations are milliseconds (`…_ms`).

Nothing here is changed once it is made. What is made anew for every token request is `slotted`, which only the type
checker holds to that: Python's own frozen dataclass takes more than twice as long to make.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar, dataclass_transform

from broker.model.account import NOBODY, Ownership

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.secret import Secret

T = TypeVar("T")

GRANT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What a grant id, and a provider's name, must match as a whole (`fullmatch`)."""

RESERVED = frozenset(
    {
        "access_token",
        "token_type",
        "expires_in",
        "expires_at",
        "scope",
        "refresh_token",
        "id_token",
        "refresh_in",
        "grant_id",
        "generation",
        "provider",
        "provider_scope",
        "event",
        "store",
        "error",
        "error_description",
        "error_uri",
    }
)
"""Members that the broker sets on the wire, or never sends: a provider's member of such a name is not passed on."""

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
"""What people are notified of, by webhook or command."""


OldToken = Literal["survives", "dies"]
"""What a refresh does to the access token before it: the values of the setting `old_token`."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def slotted(cls: type[T]) -> type[T]:
    """Make a dataclass that only the type checker takes for frozen. Its values can be compared, not hashed.

    Frozen dataclasses at run time take 1.09 times the CPU of a refresh (`python -m tests.benchmarks.tricks slotted`).
    """
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
    clock_offset: int | None = field(default=None, compare=False)
    """The offset of Redis's clock by which its times count (ms, see `store/clock.py`); None: the present one."""

    def remaining_ms(self, now: int) -> int:
        """Return the life left at *now*, never more than the token's whole life: a clock set back adds none."""
        return min(self.expires_at - now, self.expires_at - self.issued_at)


def usable_until(expires_at: int, refresh_at: int, old_token: OldToken) -> int:
    """Return until when callers may plan with a token: to its end, or to the refresh that ends it earlier."""
    return min(expires_at, refresh_at) if old_token == "dies" else expires_at


@dataclass(frozen=True, slots=True)
class Grant:
    """What the store knows of a grant, except its refresh token. `token` is absent until the first refresh."""

    grant_id: str
    provider: str
    generation: int
    token: Token | None
    granted_at: int
    reauthorize_by: int | None
    refresh_at: int
    """As planned when its token came; in a listing, the time at which it is due now."""
    failures: int
    """Failed token requests in a row."""
    reason: str | None
    """Why it is parked; None while it is not."""
    last_outcome: str | None
    last_detail: str | None
    last_at: int | None
    unreadable: bool = False
    """None of the sealing keys opens its token."""
    tampered: str | None = None
    """What of its token was altered in Redis; None: nothing is known to be."""
    reauthorize_limit: int | None = None
    """The whole length (ms) of the limit that `reauthorize_by` comes of; None: a broker wrote it that kept none."""
    ownership: Ownership = NOBODY

    @property
    def parked(self) -> bool:
        """Whether it is not refreshed until a person or a probe takes it up."""
        return self.reason is not None


@slotted
class GrantLife:
    """What one answer says of the end of its grant, in ms from that answer. None: nothing; 0: there is no end."""

    refresh_token_ms: int | None = None
    """How long this refresh token lives."""
    idle_ms: int | None = None
    """How long it may stay unused (`refresh_token_timeout`)."""
    authorization_ms: int | None = None
    """How long the resource owner's authorization lasts (`authorization_expires_in`)."""


@slotted
class StatedLimits:
    """What the answers to a grant said of its end, up to the last one. None: nothing; 0: there is no end."""

    granted_at: int
    """Of the login or import that they belong to."""
    authorization_ends_at: int | None = None
    idle_ms: int | None = None
    """Counts from each answer."""
    token_ends_at: int | None = None
    """When the refresh token ends that is held."""
    token_life_ms: int = 0
    """How long it lived when that end was said first."""


@slotted
class Ending:
    """When a person must log in again, as it is stored with a grant."""

    reauthorize_by: int | None = None
    reauthorize_limit: int | None = None
    """The whole length (ms) of the limit that `reauthorize_by` comes of."""
    stated: StatedLimits | None = None
    """What the answers said of it, the last one included."""


@slotted
class Claim:
    """A grant leased to this replica for one token request."""

    grant_id: str
    provider: str
    generation: int
    attempt: str
    """The id of this token request: its commit may be repeated, that of another attempt is refused."""
    refresh_token: Secret
    access_token: Secret | None
    scope: str | None
    issued_at: int | None
    expires_at: int | None
    granted_at: int
    failures: int
    unknown_at: int | None
    """When a token request with this refresh token was sent whose answer is unknown."""
    due_at: int
    claimed_at: int
    lease_ends: float
    """`time.monotonic()` seconds, measured from before the claim was sent."""
    refusals: int = 0
    """Refusals since its last answer that were not clear enough to park it."""
    refused_since: int | None = None
    """When the first of them was recorded."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """The extra members that its token is served with."""
    stated: StatedLimits | None = None
    """What the answers until now said of the grant's end."""
    ownership: tuple[str | bytes, ...] = ()
    """Account, owner and label as the store has them, each field with its value: the journal restores them too."""
    recovering: bool = False
    """Whether subscribers heard of a problem that was reset since, by a retry or an import: a refresh ends it."""
    tampered: str | None = None
    """What of it was altered in Redis, so that nothing of it may be sent; None: nothing is known to be."""

    @property
    def had_token(self) -> bool:
        """Whether its refresh token ever brought an access token: without one it proves nothing about its provider.

        An import leaves the access token before it in place.
        """
        return self.issued_at is not None and self.issued_at >= self.granted_at


@slotted
class TokenResponse:
    """A successful response of a token endpoint (RFC 6749 §5.1), read leniently.

    `access_token` is None when it could not be used (`problem` says why) although the response carried a refresh
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
    ended: bool = False
    """The answer says that the access token has no life left. `lifetime_ms` is None then."""
    grant_life: GrantLife = field(default_factory=GrantLife)
    id_token: Secret | None = None
    """As it was sent: of a code exchange it says who logged in."""
    issued_at: int | None = None
    """When its token was issued at the earliest; None: when it arrived. Every life in it counts from then."""

    def counts_from(self, now: int) -> int:
        """Return when its lives begin: never after *now*, at which it is known to have arrived."""
        return now if self.issued_at is None else min(self.issued_at, now)


@slotted
class Answered:
    """2xx with something to keep. Whether it is *refreshed* or *unchanged* depends on the token held."""

    answer: TokenResponse


@dataclass(frozen=True, slots=True)
class NotSent:
    """Nothing reached the server: refused, DNS, TLS, a proxy, connect time-out, too late to send, no discovery."""

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
    """Sent, but whether the refresh token was redeemed is not known."""

    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class InvalidGrant:
    """The server no longer accepts the refresh token (RFC 6749 §5.2)."""

    code: str
    detail: str = ""
    sure: bool = True
    """False: only the status says so, and it may mean the client as well."""


@dataclass(frozen=True, slots=True)
class InvalidClient:
    """The server refuses the client, by its id or secret, and not this grant (RFC 6749 §5.2)."""

    code: str
    detail: str = ""
    sure: bool = True
    """False: `unauthorized_client`, which may also mean this grant alone."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Any other refusal: it is tried again for a while, then a person decides."""

    code: str
    detail: str = ""


Outcome = Answered | NotSent | Busy | Unknown | InvalidGrant | InvalidClient | Rejected


@slotted
class Commit:
    """Keep what a response brought. A token of the generation claimed is the same access token as before."""

    claim: Claim
    outcome: str
    detail: str | None
    token: Token | None
    """What is served from now on; None: only the refresh token and the due time change."""
    refresh_token: Secret | None
    """None: the response carried none, the old one stays."""
    refresh_at: int
    ending: Ending
    failures: int
    answered_at: int
    recovered: bool

    @property
    def fresh(self) -> bool:
        """Whether there is a new generation to serve and publish."""
        return self.token is not None and self.token.generation != self.claim.generation


@dataclass(frozen=True, slots=True)
class Postpone:
    """The attempt failed; try again at `due_at`."""

    claim: Claim
    outcome: str
    code: str
    detail: str
    due_at: int
    failures: int
    unknown: bool = False
    lane: Literal["", "ailing"] = ""
    not_before: int = 0
    failing: bool = False
    """Whether this failure is the one that is published to subscribers."""
    asked: bool = True
    """False: no token request was made, it was only postponed."""
    refused_since: int | None = None
    """It was refused: when the first such refusal in a row was recorded (epoch ms)."""


@dataclass(frozen=True, slots=True)
class Park:
    """Refused: make no more requests until a person or a retry asks for one.

    Whether that is the grant's own fault the store knows: unless `verdict` is *grant*, it parks the grant only where
    other grants of the provider succeed meanwhile, and else tries again at `due_at` or suspends the provider.
    """

    claim: Claim
    outcome: str
    reason: str
    detail: str
    event: Event
    code: str = ""
    """The server's error code, where that is not the reason."""
    verdict: Literal["grant", "doubtful", "registration"] = "grant"
    """Whom the refusal means: this grant; this grant or the client registration; the client registration."""
    due_at: int = 0
    """When it is tried again if it is not parked; unused for *grant*."""
    exhausted: bool = True
    """Whether it was refused often and long enough to be parked although the refusal is not about this grant."""


Step = Commit | Postpone | Park
