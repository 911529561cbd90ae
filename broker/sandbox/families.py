"""Own which tokens are valid: families, rotation, reuse detection, limits.

Pure: it takes `now` (epoch seconds) and knows neither HTTP nor clients nor the clock.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.sandbox.options import FamilyView, TokenPair
from broker.sandbox.refusal import INVALID_GRANT, INVALID_SCOPE, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker.sandbox.options import Options


@dataclass(frozen=True, slots=True)
class Spent:
    """When a refresh token was redeemed, and the tokens that replaced it."""

    at: float
    access_token: str
    refresh_token: str


@dataclass(slots=True, eq=False)
class Family:
    """All tokens that come from one authorization."""

    id: str
    user: str
    scope: str
    created_at: float
    used_at: float
    refresh_token: str | None = None
    accesses: dict[str, float] = field(default_factory=dict)
    spent: dict[str, Spent] = field(default_factory=dict)
    revoked: bool = False
    generation: int = 0

    def live_refresh(self, options: Options, now: float) -> str | None:
        """Return the refresh token if it would be accepted at *now*."""
        idle, absolute = options.idle_limit, options.absolute_limit
        if self.revoked or (idle is not None and now - self.used_at >= idle):
            return None
        if absolute is not None and now - self.created_at >= absolute:
            return None
        return self.refresh_token

    def live_accesses(self, now: float) -> tuple[str, ...]:
        """Return the access tokens that are valid at *now*, oldest first."""
        return tuple(token for token, expires_at in self.accesses.items() if expires_at > now)


class Families:
    """Every family of one authority."""

    def __init__(self, mint: Callable[[], str]) -> None:
        """Make an empty ledger whose tokens come from *mint*."""
        self._mint = mint
        self._by_id: dict[str, Family] = {}
        self._by_refresh: dict[str, Family] = {}
        self._by_access: dict[str, Family] = {}
        self.reuse = 0
        """How many spent refresh tokens were redeemed again outside the grace."""

    def open(self, user: str, scope: str, options: Options, now: float, *, refreshable: bool) -> TokenPair:
        """Start a family and return its first tokens."""
        family = Family(secrets.token_hex(8), user, scope, created_at=now, used_at=now)
        self._by_id[family.id] = family
        if refreshable:
            self._set_refresh(family)
        access = self._add_access(family, options, now)
        return self._answer(family, access, family.refresh_token, options, now)

    def refresh(self, token: str, scope: str | None, options: Options, now: float) -> TokenPair:
        """Redeem a refresh token (RFC 6749 §6).

        Raises:
            Refused: `invalid_grant` if it is unknown, expired, revoked or spent; a spent one outside the grace
                revokes the whole family first (RFC 9700 §4.14.2). `invalid_scope` if *scope* is more than was
                granted.

        """
        family = self._by_refresh.get(token)
        if family is None:
            raise Refused(INVALID_GRANT, "unknown refresh token")
        spent = family.spent.get(token)
        if spent is not None:
            return self._replay(family, spent, options, now)
        if family.live_refresh(options, now) != token:
            raise Refused(INVALID_GRANT, "the refresh token has expired or was revoked")
        if scope is not None and not _covers(family.scope, scope):
            raise Refused(INVALID_SCOPE, "more scope than was granted")
        family.used_at = now
        current = family.live_accesses(now)
        if options.same_token_until_expiry:
            access = current[-1] if current else self._add_access(family, options, now)
            return self._answer(family, access, token, options, now)
        if options.invalidate_old_token:
            family.accesses.clear()
        access = self._add_access(family, options, now)
        if options.omit_refresh_token_on_refresh:
            return self._answer(family, access, None, options, now)
        if options.rotate:
            successor = self._set_refresh(family)
            family.spent[token] = Spent(now, access, successor)
        return self._answer(family, access, family.refresh_token, options, now)

    def revoke_token(self, token: str) -> None:
        """Revoke one token as RFC 7009 §2.1 says: a refresh token revokes the family.

        A spent refresh token, or one that was never issued, changes nothing.
        """
        family = self._by_refresh.get(token)
        if family is not None and family.refresh_token == token:
            self.revoke(family)
        family = self._by_access.get(token)
        if family is not None:
            family.accesses.pop(token, None)

    def revoke(self, family: Family) -> None:
        """Kill every token of *family*."""
        family.revoked = True
        family.accesses.clear()

    def find(self, token: str) -> Family | None:
        """Return the family that a token, live or not, belongs to."""
        return self._by_refresh.get(token) or self._by_access.get(token)

    def get(self, family_id: str) -> Family:
        """Return the family with that id, which must exist."""
        return self._by_id[family_id]

    def bearer(self, token: str, now: float) -> Family | None:
        """Return the family whose valid access token this is."""
        family = self._by_access.get(token)
        return family if family is not None and family.accesses.get(token, now) > now else None

    def is_live_refresh(self, token: str, options: Options, now: float) -> bool:
        """Return whether redeeming *token* would succeed without a grace."""
        family = self._by_refresh.get(token)
        return family is not None and family.live_refresh(options, now) == token

    def tokens(self) -> set[str]:
        """Return every token ever issued."""
        return {*self._by_refresh, *self._by_access}

    def __iter__(self) -> Iterator[Family]:
        """Iterate over the families, oldest first."""
        return iter(list(self._by_id.values()))

    def _replay(self, family: Family, spent: Spent, options: Options, now: float) -> TokenPair:
        if not family.revoked and now - spent.at < options.reuse_grace:
            return self._answer(family, spent.access_token, spent.refresh_token, options, now)
        self.reuse += 1
        self.revoke(family)
        raise Refused(INVALID_GRANT, "the refresh token was already used; all of this grant is revoked")

    def _set_refresh(self, family: Family) -> str:
        family.refresh_token = self._mint()
        self._by_refresh[family.refresh_token] = family
        return family.refresh_token

    def _add_access(self, family: Family, options: Options, now: float) -> str:
        life = options.unstated_lifetime if options.access_lifetime is None else options.access_lifetime
        # Only valid ones stay in the family, or a demo that runs for days would collect them all.
        family.accesses = {token: expires_at for token, expires_at in family.accesses.items() if expires_at > now}
        token = self._mint()
        family.accesses[token] = now + life
        family.generation += 1
        self._by_access[token] = family
        return token

    def _answer(self, family: Family, access: str, refresh: str | None, options: Options, now: float) -> TokenPair:
        left = None
        if options.access_lifetime is not None:
            # To the millisecond: subtracting epoch seconds would turn 30 into 29.9999995.
            left = round(max(0.0, family.accesses.get(access, now) - now), 3)
        return TokenPair(access, refresh, left, family.scope, family.id)


def view(family: Family, options: Options, now: float) -> FamilyView:
    """Return the state of *family* at *now*."""
    return FamilyView(
        id=family.id,
        user=family.user,
        scope=family.scope,
        refresh_token=family.live_refresh(options, now),
        access_tokens=family.live_accesses(now),
        revoked=family.revoked,
        generation=family.generation,
    )


def _covers(granted: str, asked: str) -> bool:
    have = set(granted.split())
    if "write" in have:
        have.add("read")
    return set(asked.split()) <= have
