"""The schedule's verbs: each one script, so that a grant is always in exactly one of due, leased and parked."""

from __future__ import annotations

import random
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from broker.errors import NoSuchGrant, NotOurStore, StoreUnavailable
from broker.model import Claim, Commit, Grant, Park, Postpone, Token
from broker.secret import CannotOpen, Secret
from broker.store import scripts
from broker.store.grants import TOKEN_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.model import State
    from broker.store.clock import Clock
    from broker.store.grants import Grants
    from broker.store.primary import Argument, Primary

HALF_CLOSE_AFTER = 3
"""Failures in a row, across the grants of one provider, after which its lane sends one request at a time."""
AILING_PAUSE_MS = (1_000, 30_000)
"""First and longest pause between the probes of an ailing provider."""
SUSPENDED_PAUSE_MS = (5_000, 60_000)
"""First and longest pause between the probes of a suspended provider."""
BREAKER = 3
"""Grants of one provider refused in a row after which the next one suspends the provider instead."""
_REGISTER_TRIES = 8
_REWIND_PAGE = 500


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim brought, and when (ms from now) the next one may bring more."""

    claims: list[Claim]
    unreadable: list[Claim]
    """Leased to us, but none of our keys opens them."""
    wait_ms: int
    set_back: bool
    """The server's clock was set back: `rewind` is called for."""


@dataclass(frozen=True, slots=True)
class Expedited:
    """What came of an expedite. `number` is the current generation (changed), or ms to wait (fresh, backing_off)."""

    status: Literal["expedited", "leased", "changed", "fresh", "backing_off", "parked", "gone"]
    number: int


@dataclass(frozen=True, slots=True)
class Registered:
    """What came of a register; `holder` is the grant that holds the same refresh token (held)."""

    status: Literal["created", "replaced", "unchanged", "leased", "held"]
    generation: int
    holder: str | None = None


Settled = Literal["committed", "already", "postponed", "parked", "suspended", "superseded", "gone"]


class Schedule:
    """Moves grants between due, leased and parked. Every method raises `StoreUnavailable` when Redis cannot say."""

    def __init__(self, primary: Primary, keys: scripts.Keys, grants: Grants, clock: Clock, *, replicas: int) -> None:
        self._primary = primary
        self._keys = keys
        self._grants = grants
        self._clock = clock
        self._replicas = replicas
        self._seal_refresh_token = grants.sealed_refresh_token

    def _sets(self, provider: str, *states: State) -> list[str]:
        return [self._keys.ids(state, provider) for state in states]

    async def claim(self, provider: str, n: int, lease_ms: int) -> Claimed:
        """Lease up to *n* due grants of *provider*; *n* is what the lane has free, never more."""
        before = time.monotonic()
        keys = [
            *self._sets(provider, "due", "leased"),
            self._keys.provider(provider),
            self._keys.meta,
            self._keys.grants,
        ]
        args: list[Argument] = [n, lease_ms, secrets.token_hex(12), provider, HALF_CLOSE_AFTER]
        status, now, wait_ms, *rows = await self._primary.run(scripts.CLAIM, keys, args)
        if status == b"foreign":
            raise NotOurStore("Redis answers but holds no token-broker data: it was emptied, or this is another server")
        self._clock.observe(now)
        claims: list[Claim] = []
        unreadable: list[Claim] = []
        for row in rows:
            claim, readable = self._claim(provider, row, now, before + lease_ms / 1000)
            (claims if readable else unreadable).append(claim)
        return Claimed(claims, unreadable, int(wait_ms), status == b"back")

    def _claim(self, provider: str, row: Sequence[bytes | None], now: int, lease_ends: float) -> tuple[Claim, bool]:
        raw = [b"" if cell is None else cell for cell in row]
        grant_id, readable = raw[0].decode(), True
        try:
            refresh_token = self._grants.open(grant_id, "refresh_token", raw[4])
            access_token = self._grants.open(grant_id, "access_token", raw[5]) if raw[5] else None
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
            claimed_at=now,
            lease_ends=lease_ends,
        )
        return claim, readable

    async def commit(self, commit: Commit, messages: Sequence[str]) -> tuple[Settled, bool]:
        """Write an answer down and publish it. Idempotent by attempt: an error means "repeat", never "not written".

        Gives what the script said and whether the write is known to be on disk.
        """
        claim, grant_id = commit.claim, commit.claim.grant_id
        fields: list[Argument] = [
            "answered_at", commit.answered_at,
            "last_outcome", commit.outcome, "last_detail", commit.detail or "", "last_at", commit.answered_at,
        ]  # fmt: skip
        if commit.failures:
            fields += ["failures", commit.failures]
        if commit.token is not None:
            fields += self._grants.token_fields(commit.token)
        if commit.refresh_token is not None:
            fields += self._seal_refresh_token(grant_id, commit.refresh_token)
        if commit.reauthorize_by is not None:
            fields += ["reauthorize_by", commit.reauthorize_by]
        keys = [
            self._keys.grant(grant_id),
            *self._sets(claim.provider, "due", "leased", "parked"),
            self._keys.provider(claim.provider),
        ]
        args: list[Argument] = [
            grant_id,
            claim.attempt,
            claim.generation,
            commit.refresh_at,
            self._keys.channel(grant_id),
        ]
        args += [len(messages), *messages, *fields]
        reply, durable = await self._primary.run_durably(scripts.COMMIT, keys, args, replicas=self._replicas)
        return reply.decode(), durable

    async def postpone(self, step: Postpone, message: str | None) -> Settled:
        """Put a grant back to due; tells the lane what that says of the provider."""
        claim, grant_id = step.claim, step.claim.grant_id
        suspended = step.lane == "suspended"
        first, longest = SUSPENDED_PAUSE_MS if suspended else AILING_PAUSE_MS
        keys = [
            self._keys.grant(grant_id),
            *self._sets(claim.provider, "due", "leased"),
            self._keys.provider(claim.provider),
        ]
        args: list[Argument] = [
            grant_id, claim.attempt, step.due_at, "unknown" if step.unknown else "", step.lane, step.not_before,
            step.code, step.detail, 1 if suspended else HALF_CLOSE_AFTER, first, longest, random.random(),
            self._keys.channel(grant_id), message or "",
            "failures", step.failures, "last_outcome", step.outcome, "last_detail", _told(step.code, step.detail),
            "last_at", self._clock(),
        ]  # fmt: skip
        return (await self._primary.run(scripts.POSTPONE, keys, args)).decode()  # type: ignore[no-any-return]

    async def park(self, step: Park, message: str, *, counts: bool = True) -> Settled:
        """Take a grant out of the schedule, unless the breaker says it is the provider (then: suspended)."""
        claim, grant_id = step.claim, step.claim.grant_id
        keys = [
            self._keys.grant(grant_id),
            *self._sets(claim.provider, "due", "leased", "parked"),
            self._keys.provider(claim.provider),
        ]
        args: list[Argument] = [
            grant_id, claim.attempt, step.reason, step.detail, BREAKER if counts else 0, *SUSPENDED_PAUSE_MS,
            self._keys.channel(grant_id), message,
            "last_outcome", step.outcome, "last_detail", _told(step.reason, step.detail), "last_at", self._clock(),
        ]  # fmt: skip
        return (await self._primary.run(scripts.PARK, keys, args)).decode()  # type: ignore[no-any-return]

    async def expedite(self, grant: Grant, *, interval_ms: int, generation: int | None = None) -> Expedited:
        """Make a grant due now, if it waits, is not backing off, and its last answer is *interval_ms* old."""
        keys = [self._keys.grant(grant.grant_id), *self._sets(grant.provider, "due", "leased")]
        args = [grant.grant_id, "" if generation is None else generation, interval_ms]
        status, number = await self._primary.run(scripts.EXPEDITE, keys, args)
        return Expedited(status.decode(), int(number))

    async def retry(self, grant_id: str, provider: str) -> Literal["due", "leased", "gone"]:
        """Take a grant up once more."""
        keys = [self._keys.grant(grant_id), *self._sets(provider, "due", "leased", "parked")]
        return (await self._primary.run(scripts.RETRY, keys, [grant_id])).decode()  # type: ignore[no-any-return]

    async def resume(self, provider: str) -> list[str]:
        """Take a provider up again; gives the grants its breaker had seen refused."""
        refused = await self._primary.run(scripts.RESUME, [self._keys.provider(provider)], [])
        return refused.decode().split()  # type: ignore[no-any-return]

    async def hold(self, grant_id: str, provider: str, lease_ms: int) -> Literal["held", "leased", "gone"]:
        """Lease one named grant so that nobody refreshes it."""
        keys = [self._keys.grant(grant_id), *self._sets(provider, "due", "leased", "parked")]
        return (await self._primary.run(scripts.HOLD, keys, [grant_id, lease_ms])).decode()  # type: ignore[no-any-return]

    async def forget(self, grant_id: str, message: str) -> bool:
        """Remove a grant; False when there was none."""
        for _ in range(_REGISTER_TRIES):
            raw = await self._primary.call("HGET", self._keys.grant(grant_id), "provider")
            provider = raw.decode() if raw else ""
            keys = [self._keys.grant(grant_id), *self._sets(provider, "due", "leased", "parked"), self._keys.held]
            args = [grant_id, provider, self._keys.channel(grant_id), message]
            reply = await self._primary.run(scripts.FORGET, keys, args)
            if reply != b"moved":
                return bool(reply == b"forgotten")
        raise StoreUnavailable(f"grant {grant_id} keeps moving between providers: try again")

    async def generation(self, grant_id: str) -> tuple[str, int] | None:
        """Provider and generation a grant has right now."""
        provider, generation = await self._primary.call("HMGET", self._keys.grant(grant_id), "provider", "generation")
        return None if provider is None else (provider.decode(), int(generation))

    async def import_(
        self, grant_id: str, provider: str, refresh_token: Secret, scope: str | None, *, due_at: int
    ) -> Registered:
        """Take in a refresh token that somebody already holds: a new generation without a token, due at *due_at*."""
        fields: list[Argument] = ["granted_at", self._clock()]
        if scope is not None:
            fields += ["scope", scope]
        return await self._register(
            grant_id, provider, refresh_token, fields, script=scripts.IMPORT, mode="import", due_at=due_at
        )

    async def log_in(
        self,
        token: Token,
        refresh_token: Secret,
        *,
        reauthorize_by: int | None,
        seen: tuple[str, int] | None,
        message: str,
    ) -> Registered | None:
        """Take in what a login brought; None when the grant changed since *seen*: come with a newer generation."""
        fields = self._grants.token_fields(token)
        fields += ["granted_at", token.issued_at, "answered_at", token.issued_at]
        if reauthorize_by is not None:
            fields += ["reauthorize_by", reauthorize_by]
        return await self._register_once(
            token.grant_id, token.provider, token.generation, refresh_token, fields,
            seen=seen, script=scripts.REGISTER, mode="login", due_at=token.refresh_at, message=message,
        )  # fmt: skip

    async def _register(
        self, grant_id: str, provider: str, refresh_token: Secret, fields: list[Argument],
        *, script: scripts.Script, mode: str, due_at: int,
    ) -> Registered:  # fmt: skip
        for _ in range(_REGISTER_TRIES):
            seen = await self.generation(grant_id)
            generation = max(self._clock(), (seen[1] if seen else 0) + 1)
            registered = await self._register_once(
                grant_id, provider, generation, refresh_token, ["generation", generation, *fields],
                seen=seen, script=script, mode=mode, due_at=due_at, message="",
            )  # fmt: skip
            if registered is not None:
                return registered
        raise StoreUnavailable(f"grant {grant_id} keeps changing: try again")

    async def _register_once(
        self, grant_id: str, provider: str, generation: int, refresh_token: Secret, fields: list[Argument],
        *, seen: tuple[str, int] | None, script: scripts.Script, mode: str, due_at: int, message: str,
    ) -> Registered | None:  # fmt: skip
        was_provider, was_generation = seen or ("", "")
        sets = self._sets(was_provider or provider, "due", "leased", "parked")
        keys = [self._keys.grant(grant_id), self._keys.ids("due", provider), *sets, self._keys.held, self._keys.meta]
        # An import at the same provider keeps the access token: it lives, and a reader may go on with it.
        drop: Iterable[str] = () if mode == "import" and was_provider == provider else (*TOKEN_FIELDS, "reauthorize_by")
        args: list[Argument] = [
            grant_id, mode, was_provider, was_generation, due_at, refresh_token.fingerprint(),
            self._keys.channel(grant_id), message, " ".join(drop),
            "provider", provider, "refresh_at", due_at,
            *self._seal_refresh_token(grant_id, refresh_token), *fields,
        ]  # fmt: skip
        await self._primary.call("HSET", self._keys.meta, f"provider:{provider}", 1) if seen is None else None
        status, detail = await self._primary.run(script, keys, args)
        if status == b"moved":
            return None
        if status == b"foreign":
            raise NotOurStore("Redis answers but holds no token-broker data: nothing was written")
        return Registered(status.decode(), generation, detail.decode() or None)

    async def rewind(self, provider: str) -> None:
        """After the server's clock was set back: bring what was issued "in the future" back to now."""
        keys = [self._keys.ids("due", provider), self._keys.provider(provider), self._keys.grants]
        offset = 0
        while await self._primary.run(scripts.REWIND, keys, [offset, _REWIND_PAGE]) == _REWIND_PAGE:
            offset += _REWIND_PAGE


def _maybe(raw: bytes) -> int | None:
    return int(raw) if raw else None


def _told(code: str, detail: str) -> str:
    return f"{code}: {detail}" if detail else code


__all__ = ["BREAKER", "HALF_CLOSE_AFTER", "Claimed", "Expedited", "NoSuchGrant", "Registered", "Schedule", "Settled"]
