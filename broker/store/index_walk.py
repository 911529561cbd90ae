"""Walk through all grants, a page at a time, and have the index of tokens' ends (`urgency`) say what their hashes say.

The scripts of this version keep the index, so the walk finds nothing to do, but for what a broker without the index
left: all grants at first, and whatever it changes while it runs beside this one. One replica walks at a time; where it
is stands in Redis, so another goes on there. A page takes Redis 1 or 2 ms; a million grants are 2,000 pages.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, NamedTuple

import structlog

from broker.errors import StoreUnavailable
from broker.model import GRANT_ID
from broker.process.tasks import run_until
from broker.store import scripts
from broker.store.urgency import INDEXED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.process.heartbeat import Heartbeat
    from broker.store.opening import Store

log = structlog.get_logger()

_SCHEDULE = "index"
"""The schedule in Redis whose one subject, of the same name, is the walk: whoever leases it examines a page."""
_KINDS = ("parked", "leased", "due", "ends", "failing")
"""The sets of a provider that are walked: the first three show what the index lacks, the others what is too much."""
_PAGE = 500
_MOST_SETS = 250
"""Most sets of one page: many providers have few grants each."""
_PAUSE, _SHORT_PAUSE = 1.0, 0.02
"""Seconds between two pages: the short one while the index is not complete, and after a page that was out of date."""
_ROUND_MS = 5_000
"""Between the end of one round and the start of the next."""
_LEASE_MS = 30_000
_POSITION = re.compile(rf"({'|'.join(_KINDS)})~({GRANT_ID.pattern})~([0-9.e+]{{0,24}})~({GRANT_ID.pattern}|)", re.ASCII)


class Position(NamedTuple):
    """Behind which place of which set a walk goes on; an empty member: at the beginning of the set."""

    kind: str
    provider: str
    score: str = ""
    member: str = ""

    @classmethod
    def parse(cls, record: str) -> Position | None:
        """Parse what `str` wrote; None for anything else: the walk begins anew."""
        read = _POSITION.fullmatch(record)
        return cls(*read.groups()) if read else None

    def __str__(self) -> str:
        return "~".join(self)


class IndexWalk:
    """The walk of this replica. *heartbeat* is signalled before each page."""

    def __init__(self, store: Store, heartbeat: Heartbeat) -> None:
        self._store = store
        self._heartbeat = heartbeat

    async def run(self, stopping: asyncio.Event) -> None:
        """Walk until *stopping* is set."""
        while not stopping.is_set():
            await run_until(stopping, self.step())

    async def step(self) -> None:
        """Examine a page if no other replica does, then pause."""
        self._heartbeat.signal()
        pause = _PAUSE
        try:
            if await self._take_page():
                pause = _SHORT_PAUSE
        except StoreUnavailable as error:
            self._heartbeat.lose_store(error)
        else:
            self._heartbeat.trouble = ""
        await asyncio.sleep(pause)

    async def _take_page(self) -> bool:
        """Examine a page if no other replica does; return whether the next one is urgent."""
        notices, now = self._store.notices, self._store.clock()
        await notices.enqueue(_SCHEDULE, [_SCHEDULE])
        urgent = False
        for leased in await notices.lease(_SCHEDULE, 1, _LEASE_MS):
            providers = await self._store.grants.known_providers()
            following, corrected = await examine(self._store, providers, Position.parse(leased.record))
            complete = await self._store.urgency.is_complete()
            urgent = following is not None and (corrected > 0 or not complete)
            check_at = now + (0 if urgent else _ROUND_MS if following is None else int(_PAUSE * 1000))
            await notices.finish(_SCHEDULE, leased, "" if following is None else str(following), check_at)
            if following is None and not complete:
                keys = scripts.NOTE.keys(facts=self._store.keys.meta)
                await self._store.primary.run(scripts.NOTE, keys, scripts.NOTE.args([INDEXED, 1], counter="", count=0))
                log.info("index.built", providers=len(providers))
        return urgent


async def examine(
    store: Store, providers: Iterable[str], position: Position | None, *, page: int = _PAGE
) -> tuple[Position | None, int]:
    """Have the index say of one page of grants what their hashes say.

    Args:
        store: The store.
        providers: Whose grants.
        position: Where to go on; None: at the beginning.
        page: How many members of sets are examined.

    Returns:
        Where to go on (None: that was all), and how many grants were out of place.
    """
    every = [Position(kind, provider) for kind in _KINDS for provider in sorted(providers)]
    rank = {kind: number for number, kind in enumerate(_KINDS)}
    if position is not None:
        begins = (rank[position.kind], position.provider)
        every = [each for each in every if (rank[each.kind], each.provider) >= begins]
        if every and every[0][:2] == position[:2]:
            every[0] = position
    sets, rest = every[:_MOST_SETS], every[_MOST_SETS:]
    if not sets:
        return None, 0
    script, keys = scripts.REINDEX, store.keys
    number, score, member, _, corrected = await store.primary.run(
        script,
        script.keys(
            [f"{keys.all}{each.kind}:{each.provider}" for each in sets],
            grant_prefix=keys.grants,
            ends_prefix=keys.ends(""),
            failing_prefix=keys.failing(""),
        ),
        script.args([each.provider for each in sets], limit=page, score=sets[0].score, member=sets[0].member),
    )
    if number:
        stopped = sets[number - 1]
        return Position(stopped.kind, stopped.provider, score.decode(), member.decode()), corrected
    return (rest[0] if rest else None), corrected
