"""What an authority can be told to do, and the records that it keeps: data only, no behaviour."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal


@dataclass(slots=True)
class Options:
    """How one authority behaves; every field may be changed while it runs and holds from the next request.

    All durations are seconds.
    """

    access_lifetime: float | None = 3600.0
    """Life of an access token; None leaves `expires_in` out of the answer (RFC 6749 §5.1 allows that)."""
    unstated_lifetime: float = 3600.0
    """How long a token lives whose lifetime the answer does not state."""
    code_lifetime: float = 300.0
    """Life of an authorization code (RFC 6749 §4.1.2 recommends ten minutes at most)."""
    rotate: bool = True
    """Whether a refresh replaces the refresh token and spends the one presented (RFC 9700 §4.14.2)."""
    reuse_grace: float = 0.0
    """For how long a spent refresh token still yields the same successor; 0 revokes the family at once."""
    old_token_dies: bool = False
    """Whether a refresh kills the access tokens issued before it."""
    same_token_until_expiry: bool = False
    """A refresh returns the current access token, with what is left of its life, and never rotates."""
    issue_refresh_token: bool = True
    """Whether the code exchange yields a refresh token."""
    omit_refresh_token_on_refresh: bool = False
    """A refresh answers without `refresh_token`, so the one presented stays valid (RFC 6749 §6)."""
    idle_limit: float | None = None
    """A refresh token that was not used for so long is dead."""
    absolute_limit: float | None = None
    """A family is dead so long after its login, however often it was refreshed."""
    return_state: bool = True
    """Whether `state` comes back on the redirect (RFC 6749 §4.1.2 demands it)."""
    send_iss: bool = False
    """Whether `iss` is sent on the redirect (RFC 9207 §2)."""
    require_pkce: bool = False
    """Whether an authorization request without `code_challenge` is refused (RFC 7636 §4.4.1)."""
    scope_required: bool = False
    """Whether every token request must name a scope."""
    basic_encoding: Literal["form", "plain"] = "form"
    """Whether client id and secret are form-decoded after Basic (RFC 6749 §2.3.1) or taken as they stand."""
    latency: float = 0.0
    """How long each token, revocation and logout request is kept waiting before it is processed."""


@dataclass(frozen=True, slots=True)
class TokenPair:
    """One answer's tokens; `expires_in` is seconds from the answer on, None when the server does not say."""

    access_token: str
    refresh_token: str | None
    expires_in: float | None
    scope: str
    family: str

    def __repr__(self) -> str:
        """Name the family only, so that a failing assertion does not print tokens."""
        return f"TokenPair(family={self.family!r})"


@dataclass(frozen=True, slots=True)
class FamilyView:
    """What one login (or `issue`) led to, as it stands now.

    `refresh_token` is the live one or None, `access_tokens` the live ones; `generation` counts the token
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

    `at` is epoch seconds, `monotonic` the process's monotonic seconds. `token` is the fingerprint of the
    refresh token or code presented, `issued` that of the refresh token that came of it; `others` are parameters
    that no standard knows, as they were sent. `processed` says whether tokens were looked at, whatever was answered;
    `status` is the HTTP status sent, None while or if no complete answer went out.
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
    """Return a short digest by which a token can be recognised but not used."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]
