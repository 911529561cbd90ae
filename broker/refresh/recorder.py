"""Writing down what was decided about a claimed grant: on our own disk first, then in the store, until it has heard.

An error from the store never means that it did not hear, so everything here may be said again. Knows nothing of
providers beyond what a message needs.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from broker.errors import StoreUnavailable
from broker.model import Commit, Park, Postpone
from broker.store import commit_fields
from broker.token_answer import message, token_message

if TYPE_CHECKING:
    from broker.journal.journal import Entry, Journal
    from broker.model import Event, Step
    from broker.store import Settled, Store
    from broker.store.redis.connections import Argument

log = structlog.get_logger()
_PAUSES = (0.1, 0.3, 1.0, 2.0)
SETTLE_LIMIT = 10.0
"""Seconds for which a process that is being stopped goes on telling the store; the journal keeps the rest."""


# known: what the store has came of this very answer.
_AFTER_RESTORE: dict[str, Settled] = {"forgotten": "gone", "replaced": "superseded", "known": "already"}


@dataclass(slots=True)
class Kept:
    """An answer on its way into the store: its sealed fields, made once, and where it stands in the journal."""

    sealed: list[Argument] = field(default_factory=list)
    entry: Entry | None = None


class Recorder:
    """Settles steps. *journal* None: without one."""

    def __init__(
        self,
        store: Store,
        journal: Journal | None,
        *,
        notice: bool,
        stopping: asyncio.Event,
    ) -> None:
        self._store = store
        self._journal = journal
        self._notice = notice
        self._stopping = stopping

    async def keep(self, commit: Commit) -> Kept:
        """Put an answer on disk before anybody relies on it. A disk that refuses is said aloud; the answer goes on."""
        kept = Kept(commit_fields(self._store.grants, commit))
        if self._journal is not None:
            record = self._store.registry.committed(self._store.store_id, commit, kept.sealed)
            kept.entry = await self._journal.append(commit.claim.grant_id, record)
        return kept

    async def retract(self, kept: Kept) -> None:
        """Take an answer out of the journal that the store would not have."""
        if kept.entry is not None and self._journal is not None:
            await self._journal.retract(kept.entry)

    async def settle(self, step: Step, kept: Kept | None = None) -> Settled:
        """Tell the store, again and again. *kept* is what `keep` gave for an answer.

        An answer that was received is told until it is heard, or the process must end. Anything else is dropped when
        the lease has ended: the store then knows the attempt as one of unknown outcome.
        """
        tries, since = 0, time.monotonic()
        while True:
            try:
                return await self._tell(step, kept or Kept())
            except StoreUnavailable as error:
                if not isinstance(step, Commit) and time.monotonic() > step.claim.lease_ends:
                    return "superseded"
                if self._stopping.is_set() and time.monotonic() > since + SETTLE_LIMIT:
                    log.critical(
                        "commit.abandoned",
                        grant_id=step.claim.grant_id,
                        outcome=step.outcome,
                        error=str(error),
                        journaled=kept is not None and kept.entry is not None and kept.entry.written,
                    )
                    return "already"
                if tries == 0:
                    log.warning("commit.delayed", grant_id=step.claim.grant_id, error=str(error))
                await asyncio.sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
                tries += 1

    async def _tell(self, step: Step, kept: Kept) -> Settled:
        schedule = self._store.schedule
        match step:
            case Commit():
                settled, durable = await schedule.commit(step, self._messages(step), kept.sealed)
                if settled == "lost":
                    settled, durable = await self._restored(step), False
                if kept.entry is not None:
                    kept.entry.settled, kept.entry.durable = True, durable
                return settled
            case Postpone():
                failing = self._message(step, "refresh_failing", step.outcome, step.code) if step.failing else None
                return await schedule.postpone(step, failing)
            case Park():
                return await schedule.park(step, self._message(step, step.event, step.outcome, step.reason))

    async def _restored(self, commit: Commit) -> Settled:
        """The store went back behind our claim (a failover, a restore): it takes the whole grant from us instead."""
        record = self._store.registry.committed(self._store.store_id, commit)
        restored = await self._store.registry.restore(self._store.store_id, record)
        log.warning("grant.restored", grant_id=commit.claim.grant_id, restored=restored)
        return _AFTER_RESTORE.get(restored, "committed")

    def _messages(self, commit: Commit) -> list[str]:
        token = commit.token
        if not commit.fresh or token is None:
            return []
        now = self._store.clock()
        events: tuple[Event, ...] = ("refreshed", "recovered") if commit.recovered else ("refreshed",)
        return [token_message(e, self._store.store_id, token, now, notice=self._notice) for e in events]

    def _message(self, step: Step, event: Event, outcome: str, code: str) -> str:
        claim, store_id = step.claim, self._store.store_id
        return message(event, store_id, claim.grant_id, claim.provider, claim.generation, outcome=outcome, reason=code)
