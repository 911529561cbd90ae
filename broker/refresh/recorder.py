"""Record what was decided about a claimed grant: in this replica's journal first, then in the store.

A store error does not prove that the call did not run; every call here is idempotent and is repeated. Knows nothing
of providers beyond what a message needs.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from broker.errors import StoreUnavailable
from broker.model import Commit, Park, Postpone, slotted
from broker.token_answer import message, token_message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.journal.file_format import Entry
    from broker.journal.journal import Journal
    from broker.model import Event, Step
    from broker.store import PreparedCommit, Recorded, Store
    from broker.token_answer import Message

log = structlog.get_logger()
_PAUSES = (0.1, 0.3, 1.0, 2.0)
RECORD_LIMIT = 10.0
"""Seconds for which a process that is being stopped goes on repeating calls; the journal keeps the rest."""
_AFTER_RESTORE: dict[str, Recorded] = {"forgotten": "gone", "replaced": "superseded", "known": "already"}
"""What the reply to a restore means for the commit. `known`: the store has this answer, or a newer one."""


@slotted
class Journaled:
    """An answer that is prepared for the store, and its entry in the journal (None: there is no journal)."""

    prepared: PreparedCommit
    entry: Entry | None


class Recorder:
    """Records answers and other steps. *journal* may be None; *notice*: messages are published without tokens."""

    def __init__(self, store: Store, journal: Journal | None, *, notice: bool, stopping: asyncio.Event) -> None:
        self._store = store
        self._journal = journal
        self._notice = notice
        self._stopping = stopping

    async def journal(self, commit: Commit) -> Journaled:
        """Prepare an answer, and put it on disk before anybody relies on it.

        A disk that refuses is reported by the journal; the answer goes on to the store all the same.
        """
        prepared = self._store.registry.prepare(commit)
        entry = None
        if self._journal is not None:
            entry = await self._journal.append(commit.claim.grant_id, prepared.record)
        return Journaled(prepared, entry)

    async def commit(self, answer: Journaled) -> Recorded:
        """Commit an answer; repeat that until the store has replied, or the process must end."""
        journaled = answer.entry is not None and answer.entry.written
        return await self._repeat(lambda: self._commit(answer), answer.prepared.commit, journaled=journaled)

    async def record(self, step: Postpone | Park) -> Recorded:
        """Record a step that is no answer; repeat that until the store has replied, or the lease has ended.

        After that the store knows the attempt as one of unknown outcome.
        """
        return await self._repeat(lambda: self._record(step), step, journaled=False)

    async def retract(self, answer: Journaled) -> None:
        """Take an answer out of the journal that the store did not accept."""
        if answer.entry is not None and self._journal is not None:
            await self._journal.retract(answer.entry)

    async def _repeat(self, call: Callable[[], Awaitable[Recorded]], step: Step, *, journaled: bool) -> Recorded:
        tries, since = 0, time.monotonic()
        while True:
            try:
                return await call()
            except StoreUnavailable as error:
                if not isinstance(step, Commit) and time.monotonic() > step.claim.lease_ends:
                    return "superseded"
                if self._stopping.is_set() and time.monotonic() > since + RECORD_LIMIT:
                    log.critical(
                        "commit.abandoned",
                        grant_id=step.claim.grant_id,
                        outcome=step.outcome,
                        error=str(error),
                        journaled=journaled,
                    )
                    return "already"
                if tries == 0:
                    log.warning("commit.delayed", grant_id=step.claim.grant_id, error=str(error))
                await asyncio.sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
                tries += 1

    async def _commit(self, answer: Journaled) -> Recorded:
        prepared = answer.prepared
        recorded, durable = await self._store.schedule.commit(prepared, self._messages(prepared.commit))
        if recorded == "lost":
            recorded, durable = await self._restore(prepared), False
        if answer.entry is not None:
            answer.entry.mark_recorded(durable=durable)
        return recorded

    async def _restore(self, prepared: PreparedCommit) -> Recorded:
        """Restore the whole grant in a store that lost the claim (a failover, a restore of a backup)."""
        restored = await self._store.registry.restore(prepared.record)
        log.warning("grant.restored", grant_id=prepared.commit.claim.grant_id, restored=restored)
        return _AFTER_RESTORE.get(restored, "committed")

    async def _record(self, step: Postpone | Park) -> Recorded:
        match step:
            case Postpone():
                failing = _message(step, "refresh_failing", step.code) if step.failing else None
                return await self._store.schedule.postpone(step, failing)
            case Park():
                return await self._store.schedule.park(step, _message(step, step.event, step.reason))

    def _messages(self, commit: Commit) -> list[Message]:
        token = commit.token
        if token is None:
            return []
        now = self._store.clock()
        happened: dict[Event, bool] = {"refreshed": commit.fresh, "recovered": commit.recovered}
        return [token_message(event, token, now, notice=self._notice) for event, so in happened.items() if so]


def _message(step: Postpone | Park, event: Event, reason: str) -> Message:
    claim = step.claim
    return message(event, claim.grant_id, claim.provider, claim.generation, outcome=step.outcome, reason=reason)
