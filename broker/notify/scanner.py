"""Finding what is wrong: hints as they are heard, and every grant in turn, a page at a time, by one replica.

A page a second costs little however many grants there are. What no hint told of (a crash, a lost subscription) is
found by the time the sweep has come round; the parked ones of a provider come first.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.errors import StoreUnavailable
from broker.notify.policy import FAILING_AFTER, THRESHOLDS, LastNotice, Limits, Problem, ending, grant_condition
from broker.process.tasks import unless

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.notify.sender import Sender
    from broker.process.heartbeat import Heartbeat
    from broker.store import Store

_SWEEP = "sweep"
_PAGE = 200
_PAUSE = 1.0
"""Seconds between two steps."""
_ROUND_MS = 5_000
"""Between the end of one round and the beginning of the next."""
_LEASE_MS = 30_000
_MOST_HINTS = 10_000


class Scanner:
    """Brings subjects to the *tellers*. *limits*: how long the grants of each provider in the settings live."""

    def __init__(self, store: Store, limits: Mapping[str, Limits], tellers: Sequence[Sender], heart: Heartbeat) -> None:
        self.heart = heart
        self._store = store
        self._limits = limits
        self._tellers = tellers
        self._hints: set[str] = set()
        self._hinted = asyncio.Event()

    def hint(self, grant_id: str) -> None:
        """Something bad was heard of a grant."""
        if len(self._hints) < _MOST_HINTS:
            self._hints.add(grant_id)
            self._hinted.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Scanner until *stopping*."""
        while not stopping.is_set():
            await unless(stopping, self.step())

    async def step(self) -> None:
        """The hints, the providers, one page of grants, and a pause."""
        self.heart.signal()
        self._hinted.clear()
        hints, self._hints = self._hints, set()  # more may be heard while these are brought
        try:
            await self._bring({f"grant/{grant_id}" for grant_id in hints})
            hints = set()
            await self._page()
        except StoreUnavailable as error:
            self._hints |= hints
            self.heart.trouble = str(error)
            self._hinted.clear()
        else:
            self.heart.trouble = ""
        try:
            await asyncio.wait_for(self._hinted.wait(), _PAUSE)
        except TimeoutError:
            pass

    async def _page(self) -> None:
        notices, grants, now = self._store.notices, self._store.grants, self._store.clock()
        await notices.add(_SWEEP, [_SWEEP])
        for leased in await notices.look(_SWEEP, 1, _LEASE_MS):
            states = await grants.providers(self._limits)
            found = {f"provider/{state.name}" for state in states if state.suspended}
            names = sorted(set(self._limits) | await grants.known_providers())
            doubtful, following = await grants.doubtful(
                names, leased.record or None, _PAGE, failures=FAILING_AFTER, ends_by=now + max(THRESHOLDS)
            )
            for grant in doubtful:
                if isinstance(grant_condition(grant, LastNotice()), Problem):
                    found.add(f"grant/{grant.grant_id}")
                if isinstance(ending(grant, self._limits.get(grant.provider, Limits()), now), Problem):
                    found.add(f"ending/{grant.grant_id}")
            await self._bring(found)
            look_at = now + int(_PAUSE * 1000) if following else now + _ROUND_MS
            await notices.note(_SWEEP, leased, following or "", look_at)

    async def _bring(self, subjects: set[str]) -> None:
        for teller in self._tellers:
            of_concern = [subject for subject in subjects if _concerns(subject, teller)]
            if of_concern:
                await self._store.notices.add(teller.way.name, of_concern)
                teller.wake()


def _concerns(subject: str, teller: Sender) -> bool:
    """Whether a teller might have something to say of *subject*."""
    bad: set[str] = {
        "ending": {"reauthorize_soon"},
        "provider": {"provider_suspended"},
        "grant": {"reauthorization_required", "refresh_failing"},
    }[subject.partition("/")[0]]
    return not bad.isdisjoint(teller.events)
