"""The schedule's verbs: each one script, so that a grant is always in exactly one of due, leased and parked."""

from __future__ import annotations

import random
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from broker.errors import StoreUnavailable, WrongStore
from broker.model import Claim, Commit, Grant, Park, Postpone, slotted
from broker.secret import CannotOpen, Secret
from broker.store import scripts
from broker.store.attempts import remembered, replica_name
from broker.store.commit_group import CommitGroup
from broker.token_answer import message_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.model import State
    from broker.store.clock import Clock
    from broker.store.grants import Grants
    from broker.store.redis.connections import Argument
    from broker.store.redis.primary import Primary
    from broker.token_answer import Message

HALF_CLOSE_AFTER = 3
"""Failures in a row, across the grants of one provider, after which its lane sends one request at a time."""
AILING_PAUSE_MS = (1_000, 30_000)
"""First and longest pause between the probes of an ailing provider."""
SUSPENDED_PAUSE_MS = (5_000, 60_000)
"""First and longest pause between the probes of a suspended provider."""
BREAKER = 3
"""Grants of one provider refused in a row after which the next one suspends the provider instead."""
REPORT_WINDOW_MS = 3_600_000
"""The time in which a budget of reports may be used up."""
_REWIND_PAGE = 500
_TRIES = 8


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim brought, and when (ms from now) the next one may bring more."""

    claims: list[Claim]
    unreadable: list[Claim]
    """Leased to us, but none of our keys opens them."""
    wait_ms: int
    set_back: bool
    """The server's clock was set back: `rewind` is called for."""
    fenced: int | None = None
    """The server is another run than the one known, and may have lost writes: nobody claims until then (epoch ms), and
    whoever claims has said again what it knows (`replayed_after`)."""
    passed_over: int = 0
    """Where to look on for what has expired; 0: from the beginning."""


@dataclass(frozen=True, slots=True)
class Expedited:
    """What came of an expedite.

    `number` is the current generation (changed), or how many ms to wait (fresh, spent, backing_off).
    """

    status: Literal["expedited", "leased", "changed", "fresh", "spent", "backing_off", "parked", "gone"]
    number: int


Recorded = Literal["committed", "already", "postponed", "parked", "suspended", "superseded", "gone", "lost"]


@slotted
class PreparedCommit:
    """An answer as it will be stored: prepared once (`Registry.prepare`), for the journal and for Redis."""

    commit: Commit
    fields: list[Argument]
    """Of the grant's hash, each with its value; tokens are sealed."""
    record: str
    """For the journal: all that `Registry.restore` needs."""


class Schedule:
    """Moves grants between due, leased and parked. Every method raises `StoreUnavailable` when Redis cannot say."""

    def __init__(
        self, primary: Primary, keys: scripts.Keys, grants: Grants, clock: Clock, *, replicas: int, hold_off_ms: int,
        second_term_ms: int,
    ) -> None:  # fmt: skip
        """*hold_off_ms*: how long nobody claims after the server turned out to be another run than before.

        It is longer by the time for which a primary may go on taking claims of those who were cut off with it.

        *second_term_ms*: how much longer a lease lasts once its end was seen: its holder may be about to commit.
        """
        self._primary = primary
        self._keys = keys
        self._grants = grants
        self._clock = clock
        self._hold_off_ms = hold_off_ms
        self._second_term_ms = second_term_ms
        self.replica = replica_name()
        """How we are called in what is remembered of an attempt."""
        self.life = secrets.token_hex(8)
        """This process, told apart from every other for good: the id of each of its attempts begins with it."""
        self.replayed_after = -1
        """The fence after which this replica has told the store all it knows: before that it claims nothing."""
        self._commits = CommitGroup(primary, replicas=replicas)
        self._lost_claims: dict[str, list[str]] = {}

    def _text(self, message: Message) -> str:
        return message_text(message, self._primary.store_id)

    def _sets(self, provider: str, *states: State) -> list[str]:
        return [self._keys.ids(state, provider) for state in states]

    async def claim(self, provider: str, n: int, lease_ms: int, *, expired_after: int | None = None) -> Claimed:
        """Lease up to *n* due grants of *provider*; *n* is what the lane has free, never more.

        *expired_after* leaves alone every grant whose token still lives; it is how many of those were passed over in
        claims before this one (0 at first).
        """
        before = time.monotonic()
        await self._release_lost(provider)
        claim_id = f"{self.life}.{secrets.token_hex(6)}"
        keys = [
            *self._sets(provider, "due", "leased"),
            self._keys.provider(provider),
            self._keys.epoch,
            self._keys.grants,
            self._keys.attempts,
        ]
        args: list[Argument] = [
            n, lease_ms, claim_id, provider, HALF_CLOSE_AFTER, self._hold_off_ms + self._primary.lag_ms,
            "" if expired_after is None else expired_after, self.replayed_after, self._second_term_ms, self.replica,
        ]  # fmt: skip
        asked = time.monotonic()
        try:
            status, now, wait_ms, number, *rows = await self._primary.run(scripts.CLAIM, keys, args)
        except WrongStore:
            raise
        except StoreUnavailable:
            # It may have run: what it leased is given back before the next claim, since nothing was sent for it.
            self._lost_claims.setdefault(provider, []).append(claim_id)
            raise
        if status == b"blind":
            raise StoreUnavailable(
                "Redis hides which run of it answers, so a failover that lost writes could not be noticed: "
                "let our user ask (ACL: +info); nothing is refreshed until then"
            )
        self._clock.observe(now, asked)
        if status == b"fenced":
            return Claimed([], [], int(wait_ms), set_back=False, fenced=int(number))
        claims: list[Claim] = []
        unreadable: list[Claim] = []
        for row in rows:
            claim, readable = self._claim(provider, row, now, before + lease_ms / 1000)
            (claims if readable else unreadable).append(claim)
        return Claimed(claims, unreadable, int(wait_ms), status == b"back", passed_over=int(number))

    async def _release_lost(self, provider: str) -> None:
        while lost := self._lost_claims.get(provider):
            keys = [*self._sets(provider, "due", "leased"), self._keys.grants]
            await self._primary.run(scripts.RELEASE, keys, [lost[-1]])
            lost.pop()

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

    async def commit(self, prepared: PreparedCommit, messages: Sequence[Message] = ()) -> tuple[Recorded, bool]:
        """Store an answer and publish *messages*. Idempotent by attempt: an error means "repeat", never "not written".

        Returns:
            What the script decided, and whether the write is known to be on disk.
        """
        commit, claim, grant_id = prepared.commit, prepared.commit.claim, prepared.commit.claim.grant_id
        keys = [
            self._keys.grant(grant_id),
            *self._sets(claim.provider, "due", "leased", "parked"),
            self._keys.provider(claim.provider),
            self._keys.forgotten,
            self._keys.attempts_of(grant_id),
        ]
        args: list[Argument] = [
            grant_id,
            claim.attempt,
            claim.generation,
            claim.granted_at,
            commit.refresh_at,
            self._keys.channel(grant_id),
            remembered(commit, self.replica),
        ]
        args += [len(messages), *map(self._text, messages), *prepared.fields]
        return await self._commits.add(keys, args)

    async def postpone(self, step: Postpone, message: Message | None) -> Recorded:
        """Put a grant back to due; tells the lane what that says of the provider."""
        claim, grant_id = step.claim, step.claim.grant_id
        suspended = step.lane == "suspended"
        first, longest = SUSPENDED_PAUSE_MS if suspended else AILING_PAUSE_MS
        keys = [
            self._keys.grant(grant_id),
            *self._sets(claim.provider, "due", "leased"),
            self._keys.provider(claim.provider),
            self._keys.attempts_of(grant_id),
        ]
        args: list[Argument] = [
            grant_id, claim.attempt, step.due_at, "unknown" if step.unknown else "", step.lane, step.not_before,
            step.code, step.detail, 1 if suspended else HALF_CLOSE_AFTER, first, longest, random.random(),
            self._keys.channel(grant_id), self._text(message) if message else "", claim.generation, claim.claimed_at,
            remembered(step, self.replica) if step.asked else "",
            "failures", step.failures, "last_outcome", step.outcome, "last_detail", _told(step.code, step.detail),
            "last_at", self._clock(),
        ]  # fmt: skip
        return (await self._primary.run(scripts.POSTPONE, keys, args)).decode()  # type: ignore[no-any-return]

    async def park(self, step: Park, message: Message, *, counts: bool = True) -> Recorded:
        """Take a grant out of the schedule, unless the breaker says it is the provider (then: suspended)."""
        claim, grant_id = step.claim, step.claim.grant_id
        keys = [
            self._keys.grant(grant_id),
            *self._sets(claim.provider, "due", "leased", "parked"),
            self._keys.provider(claim.provider),
            self._keys.attempts_of(grant_id),
        ]
        args: list[Argument] = [
            grant_id, claim.attempt, step.reason, step.detail, BREAKER if counts else 0, *SUSPENDED_PAUSE_MS,
            self._keys.channel(grant_id), self._text(message), remembered(step, self.replica),
            "last_outcome", step.outcome, "last_detail", _told(step.reason, step.detail), "last_at", self._clock(),
        ]  # fmt: skip
        return (await self._primary.run(scripts.PARK, keys, args)).decode()  # type: ignore[no-any-return]

    async def expedite(
        self, grant: Grant, *, interval_ms: int, generation: int | None = None, budget: int | None = None
    ) -> Expedited:
        """Make a grant due now, if it waits, is not backing off, and its last answer is *interval_ms* old.

        *budget*: how often that may be done in `REPORT_WINDOW_MS`, counting what was done with a budget only. Whoever
        finds the grant due already is not counted.
        """
        keys = [self._keys.grant(grant.grant_id), *self._sets(grant.provider, "due", "leased")]
        args: list[Argument] = [
            grant.grant_id, "" if generation is None else generation, interval_ms, "" if budget is None else budget,
            REPORT_WINDOW_MS,
        ]  # fmt: skip
        status, number = await self._primary.run(scripts.EXPEDITE, keys, args)
        return Expedited(status.decode(), int(number))

    async def retry(self, grant_id: str, provider: str) -> Literal["due", "leased", "gone"]:
        """Take a grant up once more; *provider* is where it was seen last."""
        return await self._named(scripts.RETRY, grant_id, provider)  # type: ignore[return-value]

    async def _named(self, script: scripts.Script, grant_id: str, provider: str, *args: Argument) -> str:
        """Run a script on one named grant, under whichever provider it is by now."""
        for _ in range(_TRIES):
            keys = [self._keys.grant(grant_id), *self._sets(provider, "due", "leased", "parked")]
            reply: str = (await self._primary.run(script, keys, [grant_id, provider, *args])).decode()
            if reply != "moved":
                return reply
            held = await self._primary.call("HGET", self._keys.grant(grant_id), "provider")
            provider = held.decode() if held else provider
        raise StoreUnavailable(f"grant {grant_id} keeps moving between providers: try again")

    async def resume(self, provider: str) -> list[str]:
        """Take a provider up again; gives the grants its breaker had seen refused."""
        refused = await self._primary.run(scripts.RESUME, [self._keys.provider(provider)], [])
        return refused.decode().split()  # type: ignore[no-any-return]

    async def hold(self, grant_id: str, provider: str, lease_ms: int) -> Literal["held", "leased", "gone"]:
        """Lease one named grant so that nobody refreshes it; *provider* is where it was seen last."""
        return await self._named(scripts.HOLD, grant_id, provider, lease_ms)  # type: ignore[return-value]

    async def abandon(self, life: str, providers: Iterable[str]) -> int:
        """Let the leases of a process that is known to be dead last no longer than its requests may.

        Gives how many there were; their outcomes are unknown.
        """
        keys = [[self._keys.ids("leased", provider), self._keys.grants] for provider in providers]
        args: list[Argument] = [life, self._second_term_ms]
        return sum([await self._primary.run(scripts.ABANDON, each, args) for each in keys])

    async def rewind(self, provider: str, lease_ms: int) -> None:
        """After the server's clock was set back: bring what was issued or leased "in the future" back to now."""
        keys = [*self._sets(provider, "due", "leased"), self._keys.provider(provider), self._keys.grants]
        offset = 0
        while await self._primary.run(scripts.REWIND, keys, [offset, _REWIND_PAGE, lease_ms]) == _REWIND_PAGE:
            offset += _REWIND_PAGE


def commit_fields(grants: Grants, commit: Commit) -> list[Argument]:
    """What an answer brought, as fields and values of its grant's hash."""
    fields: list[Argument] = [
        "answered_at", commit.answered_at,
        "last_outcome", commit.outcome, "last_detail", commit.detail or "", "last_at", commit.answered_at,
    ]  # fmt: skip
    if commit.failures:
        fields += ["failures", commit.failures]
    if commit.token is not None:
        fields += grants.token_fields(commit.token)
    if commit.refresh_token is not None:
        fields += grants.sealed_refresh_token(commit.claim.grant_id, commit.refresh_token)
    if commit.reauthorize_by is not None:
        fields += ["reauthorize_by", commit.reauthorize_by]
    return fields


def _maybe(raw: bytes) -> int | None:
    return int(raw) if raw else None


def _told(code: str, detail: str) -> str:
    return f"{code}: {detail}" if detail else code
