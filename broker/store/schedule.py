"""The schedule: each of its verbs is one script, so a grant is always in exactly one of due, leased and parked.

Knows nothing of when a grant should be refreshed, or of what a provider answered: callers decide both.
"""

from __future__ import annotations

import random
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from broker.errors import DamagedSchedule, StoreUnavailable, WrongStore
from broker.store import scripts
from broker.store.attempts import attempt_record, replica_name
from broker.store.claims import Claimed, parse_claims
from broker.store.clock import uptime
from broker.store.commit_group import CommitGroup
from broker.token_answer import message_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.model import Grant, Park, Postpone, State
    from broker.store.clock import Clock
    from broker.store.grants import Grants
    from broker.store.prepared import PreparedCommit
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
_TRIES = 8


@dataclass(frozen=True, slots=True)
class Expedited:
    """The result of an expedite.

    `number` is the current generation (changed), or how many ms to wait (fresh, spent, backing_off).
    """

    status: Literal["expedited", "leased", "changed", "fresh", "spent", "backing_off", "parked", "gone"]
    number: int


Recorded = Literal["committed", "already", "postponed", "parked", "suspended", "superseded", "gone", "lost"]

_CLAIMED_FROM: tuple[State, ...] = ("due", "leased")


class Schedule:
    """Moves grants between due, leased and parked.

    Every method raises `StoreUnavailable` when Redis does not answer, or does not do what it was asked for.
    """

    def __init__(
        self,
        primary: Primary,
        keys: scripts.Keys,
        grants: Grants,
        clock: Clock,
        *,
        replicas: int,
        hold_off_ms: int,
        second_term_ms: int,
    ) -> None:
        """Wire a schedule; a commit should be on the disks of *replicas* replicas of Redis.

        *hold_off_ms* is how long nobody claims after another run of the server was noticed. A claim adds the time for
        which a primary may go on taking claims of brokers that were cut off with it. *second_term_ms* is how much
        longer a lease lasts once its end was seen: its holder may be about to commit.
        """
        self._primary = primary
        self._keys = keys
        self._grants = grants
        self._clock = clock
        self._hold_off_ms = hold_off_ms
        self._second_term_ms = second_term_ms
        self.replica = replica_name()
        """The name of this replica in the record of an attempt."""
        self.life = secrets.token_hex(8)
        """The id of this process, different from every other: the id of each of its attempts begins with it."""
        self.replayed_after = -1
        """The fence after which this replica replayed its journal: before that it claims nothing."""
        self._commits = CommitGroup(primary, replicas=replicas)
        self._lost_claims: dict[str, list[str]] = {}

    def _text(self, message: Message) -> str:
        return message_text(message, self._primary.store_id)

    async def claim(self, provider: str, n: int, lease_ms: int, *, expired_after: int | None = None) -> Claimed:
        """Lease up to *n* due grants of *provider*.

        Args:
            provider: Name of the provider.
            n: How many slots the lane has free.
            lease_ms: How long a grant is leased.
            expired_after: None, or: claim only grants whose token has expired. The number says how many grants with a
                living token were passed over in the claims before this one (0 at first).

        Raises:
            StoreUnavailable: Redis did not answer, or hides which run of it answers.
        """
        before = time.monotonic()
        await self._release_lost(provider)
        claim_id = f"{self.life}.{secrets.token_hex(6)}"
        keys, args = self._claim_call(provider, claim_id, n=n, lease_ms=lease_ms, expired_after=expired_after)
        asked = uptime()
        try:
            status, now, wait_ms, number, *rows = await self._primary.run(scripts.CLAIM, keys, args)
        except (WrongStore, DamagedSchedule):
            raise
        except StoreUnavailable:
            # The script may have run. The next claim first releases what it leased, since nothing was sent for it.
            self._lost_claims.setdefault(provider, []).append(claim_id)
            raise
        if status == b"blind":
            raise StoreUnavailable(
                "Redis hides which run of it answers, so a failover that lost writes could not be noticed: "
                "let the broker's user ask (ACL: +info); nothing is refreshed until then"
            )
        self._clock.observe(now, asked)
        if status == b"fenced":
            return Claimed([], [], int(wait_ms), set_back=False, fenced=int(number))
        damaged = tuple(row[0].decode() for row in rows if len(row) == 1)
        rows = [row for row in rows if len(row) > 1]
        opened = parse_claims(self._grants, provider, rows, claimed_at=now, lease_ends=before + lease_ms / 1000)
        return Claimed(*opened, int(wait_ms), set_back=status == b"back", passed_over=int(number), damaged=damaged)

    def _claim_call(
        self, provider: str, claim_id: str, *, n: int, lease_ms: int, expired_after: int | None
    ) -> tuple[tuple[str, ...], tuple[Argument, ...]]:
        keys = scripts.CLAIM.keys(
            due=self._keys.ids("due", provider),
            leased=self._keys.ids("leased", provider),
            parked=self._keys.ids("parked", provider),
            provider=self._keys.provider(provider),
            epoch=self._keys.epoch,
            grant_prefix=self._keys.grants,
            attempts_prefix=self._keys.attempts,
            lost=self._keys.lost,
        )
        args = scripts.CLAIM.args(
            n=n,
            lease_ms=lease_ms,
            claim_id=claim_id,
            provider_name=provider,
            half_close_after=HALF_CLOSE_AFTER,
            hold_off_ms=self._hold_off_ms + self._primary.lag_ms,
            pass_over="" if expired_after is None else expired_after,
            replayed_after=self.replayed_after,
            second_term_ms=self._second_term_ms,
            replica=self.replica,
        )
        return keys, args

    async def find_due(self, providers: Sequence[str], within_ms: int) -> set[str]:
        """Return those of *providers* with a grant that is due, or a lease that ends, within so many ms."""
        if not providers:
            return set()
        sets = [self._keys.ids(state, provider) for provider in providers for state in _CLAIMED_FROM]
        args = scripts.FIND_DUE.args(within_ms=within_ms)
        places = await self._primary.run(scripts.FIND_DUE, scripts.FIND_DUE.keys(sets), args)
        return {providers[(place - 1) // len(_CLAIMED_FROM)] for place in places}

    async def _release_lost(self, provider: str) -> None:
        while lost := self._lost_claims.get(provider):
            keys = scripts.RELEASE.keys(
                due=self._keys.ids("due", provider),
                leased=self._keys.ids("leased", provider),
                grant_prefix=self._keys.grants,
            )
            await self._primary.run(scripts.RELEASE, keys, scripts.RELEASE.args(claim_id=lost[-1]))
            lost.pop()

    async def commit(self, prepared: PreparedCommit, messages: Sequence[Message] = ()) -> tuple[Recorded, bool]:
        """Store an answer and publish it. Idempotent by attempt: an error means "repeat", never "not written".

        Args:
            prepared: What `Registry.prepare` made of the answer.
            messages: To publish on the grant's channel.

        Returns:
            What the script decided, and whether the write is known to be on disk.
        """
        commit, claim, grant_id = prepared.commit, prepared.commit.claim, prepared.commit.claim.grant_id
        keys = scripts.COMMIT.keys(
            grant=self._keys.grant(grant_id),
            **self._keys.sets(claim.provider),
            **self._keys.index(claim.provider),
            provider=self._keys.provider(claim.provider),
            forgotten=self._keys.forgotten,
            attempts=self._keys.attempts_of(grant_id),
        )
        args = scripts.COMMIT.args(
            [*map(self._text, messages), *prepared.fields],
            grant_id=grant_id,
            attempt=claim.attempt,
            generation=claim.generation,
            granted_at=claim.granted_at,
            claimed_at=claim.claimed_at,
            answered_at=commit.answered_at,
            refresh_at=commit.refresh_at,
            ends_at=commit.token.expires_at if commit.token and not commit.failures else "",
            channel=self._keys.channel(grant_id),
            record=attempt_record(commit, self.replica),
            message_count=len(messages),
        )
        return await self._commits.add(keys, args)

    async def postpone(self, step: Postpone, message: Message | None) -> Recorded:
        """Put a grant back to due, and record what its outcome says about the provider's lane."""
        claim, grant_id = step.claim, step.claim.grant_id
        first, longest = AILING_PAUSE_MS
        fields: list[Argument] = [
            "failures",
            step.failures,
            *self._last(step.outcome, _describe(step.code, step.detail)),
        ]
        if step.refused_since is not None:
            fields += ["refused", f"{claim.refusals + 1} {step.refused_since} {self._clock()}"]
        keys = scripts.POSTPONE.keys(
            grant=self._keys.grant(grant_id),
            **self._keys.sets(claim.provider),
            **self._keys.index(claim.provider),
            provider=self._keys.provider(claim.provider),
            attempts=self._keys.attempts_of(grant_id),
        )
        args = scripts.POSTPONE.args(
            fields,
            grant_id=grant_id,
            attempt=claim.attempt,
            due_at=step.due_at,
            unknown="unknown" if step.unknown else "",
            lane=step.lane,
            not_before=step.not_before,
            detail=step.detail,
            half_close_after=HALF_CLOSE_AFTER,
            first_pause_ms=first,
            longest_pause_ms=longest,
            jitter=random.random(),
            channel=self._keys.channel(grant_id),
            message=self._text(message) if message else "",
            generation=claim.generation,
            claimed_at=claim.claimed_at,
            provider_name=claim.provider,
            record=attempt_record(step, self.replica) if step.asked else "",
        )
        return (await self._primary.run(scripts.POSTPONE, keys, args)).decode()  # type: ignore[no-any-return]

    async def park(self, step: Park, message: Message, *, counts: bool = True) -> Recorded:
        """Record a refusal: the script parks the grant, tries it again, or suspends the provider.

        Args:
            step: The refusal, and the claim that it belongs to.
            message: To publish on the grant's channel if the grant is parked.
            counts: Whether the refusal counts for the breaker.
        """
        claim, grant_id = step.claim, step.claim.grant_id
        first, longest = SUSPENDED_PAUSE_MS
        keys = scripts.PARK.keys(
            grant=self._keys.grant(grant_id),
            **self._keys.sets(claim.provider),
            **self._keys.index(claim.provider),
            provider=self._keys.provider(claim.provider),
            attempts=self._keys.attempts_of(grant_id),
        )
        args = scripts.PARK.args(
            self._last(step.outcome, _describe(step.reason, step.detail)),
            grant_id=grant_id,
            attempt=claim.attempt,
            reason=step.reason,
            code=step.code or step.reason,
            detail=step.detail,
            verdict=step.verdict,
            exhausted="exhausted" if step.exhausted else "",
            due_at=step.due_at,
            failures=claim.failures + 1,
            breaker=BREAKER if counts else 0,
            first_pause_ms=first,
            longest_pause_ms=longest,
            channel=self._keys.channel(grant_id),
            message=self._text(message),
            record=attempt_record(step, self.replica),
        )
        return (await self._primary.run(scripts.PARK, keys, args)).decode()  # type: ignore[no-any-return]

    def _last(self, outcome: str, detail: str) -> list[Argument]:
        """Return the fields of a grant that say how its last token request ended."""
        return ["last_outcome", outcome, "last_detail", detail, "last_at", self._clock()]

    async def expedite(
        self, grant: Grant, *, interval_ms: int, generation: int | None = None, budget: int | None = None
    ) -> Expedited:
        """Make a grant due now, if it waits, is not backing off, and its last answer is old enough.

        Args:
            grant: The grant, as it was read last.
            interval_ms: How old its last answer must be.
            generation: The generation that must be current; None: any.
            budget: How often this may be done in `REPORT_WINDOW_MS`, where calls with a budget count, and those that
                find the grant due already do not. None: without limit.
        """
        keys = scripts.EXPEDITE.keys(
            grant=self._keys.grant(grant.grant_id),
            due=self._keys.ids("due", grant.provider),
            leased=self._keys.ids("leased", grant.provider),
        )
        args = scripts.EXPEDITE.args(
            grant_id=grant.grant_id,
            generation="" if generation is None else generation,
            interval_ms=interval_ms,
            budget="" if budget is None else budget,
            window_ms=REPORT_WINDOW_MS,
        )
        status, number = await self._primary.run(scripts.EXPEDITE, keys, args)
        return Expedited(status.decode(), int(number))

    async def retry(self, grant_id: str, provider: str) -> Literal["due", "leased", "gone"]:
        """Have a grant tried once more; *provider* is where it was seen last."""
        return await self._named(scripts.RETRY, grant_id, provider, indexed=True)  # type: ignore[return-value]

    async def _named(
        self, script: scripts.Script, grant_id: str, provider: str, *, indexed: bool = False, **more: Argument
    ) -> str:
        """Run a script on one named grant, under whichever provider it is by now; *indexed*: it keeps the index."""
        for _ in range(_TRIES):
            keys = script.keys(
                grant=self._keys.grant(grant_id),
                **self._keys.sets(provider),
                **(self._keys.index(provider) if indexed else {}),
            )
            args = script.args(grant_id=grant_id, provider=provider, **more)
            reply: str = (await self._primary.run(script, keys, args)).decode()
            if reply != "moved":
                return reply
            held = await self._primary.call("HGET", self._keys.grant(grant_id), "provider")
            provider = held.decode() if held else provider
        raise StoreUnavailable(f"grant {grant_id} keeps moving between providers: try again")

    async def resume(self, provider: str) -> list[str]:
        """Resume a provider; return the ids of the grants that its breaker had seen refused."""
        keys = scripts.RESUME.keys(provider=self._keys.provider(provider))
        refused = await self._primary.run(scripts.RESUME, keys, scripts.RESUME.args())
        return refused.decode().split()  # type: ignore[no-any-return]

    async def hold(self, grant_id: str, provider: str, lease_ms: int) -> Literal["held", "leased", "gone"]:
        """Lease one named grant so that nobody refreshes it; *provider* is where it was seen last."""
        return await self._named(scripts.HOLD, grant_id, provider, lease_ms=lease_ms)  # type: ignore[return-value]

    async def abandon(self, life: str, providers: Iterable[str]) -> int:
        """Shorten the leases of a process that is known to be dead to what its requests may take.

        Returns:
            How many leases it held; the outcomes of its requests are unknown.
        """
        held = 0
        for provider in providers:
            keys = scripts.ABANDON.keys(leased=self._keys.ids("leased", provider), grant_prefix=self._keys.grants)
            args = scripts.ABANDON.args(life=life, longest_ms=self._second_term_ms)
            held += await self._primary.run(scripts.ABANDON, keys, args)
        return held


def _describe(code: str, detail: str) -> str:
    return f"{code}: {detail}" if detail else code
