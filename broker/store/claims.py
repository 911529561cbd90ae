"""What a claim brought: the rows of the script's reply, opened.

Knows nothing of how a claim is made.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.model import Claim
from broker.secret import CannotOpen, Secret
from broker.store import ownership
from broker.store.limits import parse_stated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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
    """Leased to this broker, but no key in the key file opens them."""
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
    grant_id, readable = raw[0].decode(), True
    try:
        refresh_token = grants.open(grant_id, "refresh_token", raw[4])
        access_token = grants.open(grant_id, "access_token", raw[5]) if raw[5] else None
    except CannotOpen:
        refresh_token, access_token, readable = Secret(""), None, False
    claim = Claim(
        grant_id=grant_id,
        provider=provider,
        generation=int(raw[3]),
        attempt=raw[1].decode(),
        refresh_token=refresh_token,
        access_token=access_token,
        scope=raw[6].decode() if row[6] is not None else None,
        issued_at=_maybe(raw[7]),
        expires_at=_maybe(raw[8]),
        granted_at=int(raw[9]),
        failures=int(raw[10] or 0),
        unknown_at=_maybe(raw[11]),
        due_at=int(float(raw[2])),
        claimed_at=claimed_at,
        lease_ends=lease_ends,
        extra=_extra(grants, grant_id, raw[12]),
        stated=parse_stated(raw[13], int(raw[9])),
        ownership=ownership.claimed(*raw[15:18]) if len(raw) > _WITHOUT_OWNERSHIP else (),
        recovering=len(raw) > _WITH_OWNERSHIP,
    )
    if raw[14]:  # how often it was refused, first when, last when
        refusals, refused_since, _ = raw[14].split()
        claim.refusals, claim.refused_since = int(refusals), int(refused_since)  # type: ignore[misc]
    return claim, readable


def _extra(grants: Grants, grant_id: str, sealed: bytes) -> Mapping[str, object]:
    """Return the extra members held; none where no key opens them: that must not stop a refresh."""
    try:
        members = json.loads(grants.open(grant_id, "extra", sealed).reveal()) if sealed else {}
    except CannotOpen:
        return {}
    return members if isinstance(members, dict) else {}


def _maybe(raw: bytes) -> int | None:
    return int(raw) if raw else None
