"""What a claim brought: the rows of the script's reply, opened.

Knows nothing of how a claim is made.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.model import Claim
from broker.secret import CannotOpen, Secret, Tampered
from broker.store import ownership
from broker.store.limits import parse_stated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from broker.store.binding import Facts
    from broker.store.grants import Grants

_WITHOUT_OWNERSHIP = 15
"""Cells of the row of a grant that has neither account nor owner nor label."""
_WITH_OWNERSHIP = 18
"""Those of one that has; a further one says that subscribers heard of a problem that a refresh will end."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The result of a claim, and when (ms from now) the next one may bring more."""

    claims: list[Claim]
    unreadable: list[Claim]
    """Leased to this broker, but no key in the key file opens them, or somebody altered them (`Claim.tampered`)."""
    wait_ms: int
    set_back: bool
    """The server's clock was set back: the caller should `rewind`."""
    fenced: int | None = None
    """Another run of the server answers, which may have lost writes: nobody claims until then (epoch ms), and a replica
    claims only after it replayed its journal (`replayed_after`)."""
    passed_over: int = 0
    """Where to continue the search for expired tokens; 0: from the beginning."""


def parse_claims(
    grants: Grants, provider: str, rows: Iterable[Sequence[bytes | None]], *, claimed_at: int, lease_ends: float
) -> tuple[list[Claim], list[Claim]]:
    """Return the claims in the script's reply, and those that no key in the key file opens.

    Args:
        grants: Opens sealed fields.
        provider: Whose grants they are.
        rows: One for each claim, as `claim.lua` made them.
        claimed_at: When the script ran, epoch ms.
        lease_ends: When the leases end, seconds of the local monotonic clock.
    """
    claims: list[Claim] = []
    unreadable: list[Claim] = []
    for row in rows:
        claim, readable = _parse(grants, provider, row, claimed_at, lease_ends)
        (claims if readable else unreadable).append(claim)
    return claims, unreadable


def _parse(
    grants: Grants, provider: str, row: Sequence[bytes | None], claimed_at: int, lease_ends: float
) -> tuple[Claim, bool]:
    raw = [b"" if cell is None else cell for cell in row]
    grant_id, readable, tampered = raw[0].decode(), True, None
    granted_at, scope = int(raw[9]), raw[6].decode() if row[6] is not None else None
    access_token: Secret | None = None
    of_token: Facts = {}
    try:
        refresh_token, of_grant = grants.open(grant_id, "refresh_token", raw[4], provider)
        if raw[5]:
            access_token, of_token = grants.open(grant_id, "access_token", raw[5], provider)
        _check_scope(scope, of_grant, of_token)
        granted_at = min(granted_at, of_grant.get("granted_at") or granted_at)
    except CannotOpen as error:
        refresh_token, access_token, readable = Secret(""), None, False
        tampered = str(error) if isinstance(error, Tampered) else None
    claim = Claim(
        grant_id=grant_id,
        provider=provider,
        generation=int(raw[3]),
        attempt=raw[1].decode(),
        refresh_token=refresh_token,
        access_token=access_token,
        scope=scope,
        issued_at=_maybe(raw[7]),
        expires_at=_earlier(_maybe(raw[8]), of_token.get("expires_at")),
        granted_at=granted_at,
        failures=int(raw[10] or 0),
        unknown_at=_maybe(raw[11]),
        due_at=int(float(raw[2])),
        claimed_at=claimed_at,
        lease_ends=lease_ends,
        extra=_extra(grants, grant_id, raw[12], provider),
        stated=parse_stated(raw[13], int(raw[9])),
        ownership=ownership.claimed(*raw[15:18]) if len(raw) > _WITHOUT_OWNERSHIP else (),
        recovering=len(raw) > _WITH_OWNERSHIP,
        tampered=tampered,
    )
    if raw[14]:  # how often it was refused, first when, last when
        refusals, refused_since, _ = raw[14].split()
        claim.refusals, claim.refused_since = int(refusals), int(refused_since)  # type: ignore[misc]
    return claim, readable


def _check_scope(scope: str | None, of_grant: Facts, of_token: Facts) -> None:
    """Check that the scope to ask for is that of the refresh token, or of the access token that came of it.

    Raises:
        Tampered: It is another.
    """
    if of_grant and scope not in {of_grant["scope"], of_token.get("scope", of_grant["scope"])}:
        raise Tampered("its scope is another than that of its tokens")


def _extra(grants: Grants, grant_id: str, sealed: bytes, provider: str) -> Mapping[str, object]:
    """Return the extra members held; none where no key opens them: that must not stop a refresh."""
    try:
        members = json.loads(grants.open(grant_id, "extra", sealed, provider)[0].reveal()) if sealed else {}
    except CannotOpen:
        return {}
    return members if isinstance(members, dict) else {}


def _earlier(stored: int | None, sealed: int | None) -> int | None:
    return min(stored, sealed) if stored is not None and sealed is not None else stored


def _maybe(raw: bytes) -> int | None:
    return int(raw) if raw else None
