"""The options of an authority, and the records that it keeps: data only, no behaviour."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Final, Literal

OFFLINE: Final = "offline_access"
"""The scope that asks for a refresh token (OpenID Connect Core §11)."""


@dataclass(slots=True)
class Options:
    """How one authority behaves; every field may be changed while it runs and applies from the next request.

    All durations are seconds.
    """

    access_lifetime: float | None = 3600.0
    """Lifetime of an access token; None omits `expires_in` from the response (RFC 6749 §5.1 allows that)."""
    unstated_lifetime: float = 3600.0
    """Lifetime of a token whose response does not state it."""
    code_lifetime: float = 300.0
    """Lifetime of an authorization code (RFC 6749 §4.1.2 recommends ten minutes at most)."""
    rotate: bool = True
    """Whether a refresh replaces the refresh token and spends the old one (RFC 9700 §4.14.2)."""
    reuse_grace: float = 0.0
    """How long a spent refresh token still yields the same successor; 0 revokes the family at once."""
    invalidate_old_token: bool = False
    """Whether a refresh invalidates the access tokens issued before it."""
    same_token_until_expiry: bool = False
    """A refresh returns the current access token, with its remaining lifetime, and never rotates."""
    issue_refresh_token: bool = True
    """Whether the code exchange yields a refresh token."""
    offline_by_consent: bool = False
    """Whether `offline_access` counts only with `prompt=consent`, and a refresh token comes only of that scope.

    So OpenID Connect Core §11 has it, to the letter.
    """
    omit_refresh_token_on_refresh: bool = False
    """A refresh responds without `refresh_token`, so the redeemed one stays valid (RFC 6749 §6)."""
    idle_limit: float | None = None
    """A refresh token that was not used for so long is no longer valid."""
    absolute_limit: float | None = None
    """A family ends so long after its login, however often it was refreshed."""
    return_state: bool = True
    """Whether `state` comes back on the redirect (RFC 6749 §4.1.2 demands it)."""
    send_iss: bool = False
    """Whether `iss` is sent on the redirect (RFC 9207 §2)."""
    require_pkce: bool = False
    """Whether an authorization request without `code_challenge` is rejected (RFC 7636 §4.4.1)."""
    scope_required: bool = False
    """Whether every token request must name a scope."""
    basic_encoding: Literal["form", "plain"] = "form"
    """Whether client id and secret are form-decoded after Basic (RFC 6749 §2.3.1) or taken verbatim."""
    id_token_claims: dict[str, Any] = field(default_factory=dict)
    """Claims of the ID token beside the standard's, or instead of them; None leaves one out."""
    id_token: str | None = None
    """Sent as the ID token, whatever it is."""
    id_token_on_refresh: bool = False
    """Whether a refresh response has an ID token too (OpenID Connect Core §12.2)."""
    latency: float = 0.0
    """How long each token, revocation and logout request waits before it is processed."""


@dataclass(frozen=True, slots=True)
class TokenPair:
    """The tokens of one response; `expires_in` is seconds from the response on, None if the server does not say."""

    access_token: str
    refresh_token: str | None
    expires_in: float | None
    scope: str
    family: str

    def __repr__(self) -> str:
        """Name only the family, so that a failing assertion does not print tokens."""
        return f"TokenPair(family={self.family!r})"


@dataclass(frozen=True, slots=True)
class FamilyView:
    """The current state of what one login (or `issue`) created.

    `refresh_token` is the valid one or None, `access_tokens` the valid ones; `generation` counts the token
    pairs minted, the first included.
    """

    id: str
    user: str
    scope: str
    refresh_token: str | None
    access_tokens: tuple[str, ...]
    revoked: bool
    generation: int


@dataclass(slots=True)
class TokenRequest:
    """One request that reached a token endpoint, faults included.

    `at` is epoch seconds, `monotonic` the process's monotonic seconds. `token` is the fingerprint of the redeemed
    refresh token or code, `issued` that of the refresh token in the response; `others` are parameters that no
    standard knows, verbatim. `processed` says whether tokens were examined, whatever the response; `status` is the
    HTTP status sent, None while or if no complete response was sent.
    """

    at: float
    monotonic: float
    grant_type: str | None = None
    family: str | None = None
    token: str | None = None
    fault: str | None = None
    processed: bool = False
    status: int | None = None
    error: str | None = None
    issued: str | None = None
    others: dict[str, str] = field(default_factory=dict)


def fingerprint(token: str) -> str:
    """Return a short digest that identifies a token but cannot be used as one."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]
