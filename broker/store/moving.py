"""Move a store to another Redis: hold back the brokers of the old one, copy, compare, then open the new one.

Both `meta` hashes say how far a move is, and every step changes one of them in a script that runs under the name that
the step before it gave. So a move may be broken off anywhere and repeated, two at once do no harm, and there is never a
moment at which brokers run in both stores:

| step | old store is called | new store is called |
|---|---|---|
| begin | its id | arriving from OLD |
| drain: nobody claims, answers under way are recorded | its id | arriving from OLD |
| hold back | being moved to NEW | arriving from OLD |
| copy, compare | being moved to NEW | arriving from OLD |
| leave | moved to NEW | arriving from OLD |
| open | moved to NEW | its id |

The store keeps its id: brokers know it by that, and replay their journals there before they claim anything.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors import InvalidSettings, StoreUnavailable, WrongStore
from broker.store import scripts
from broker.store.copying import NEEDED, Copy, run_id
from broker.store.facts import find_denied
from broker.store.move_marks import Marks, require_abortable, require_known, require_movable
from broker.store.redis import moved
from broker.store.redis.cures import damaged_schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.store.redis.connections import Argument
    from broker.store.redis.primary import Primary

_FIELDS = ("move_id", "move_store", "move_schema", "move_to", "move_at", "move_cursor")
"""What a move writes into `meta` beside `store` and `schema`, and removes at its end."""
_PASSES = 4
_EVERY = 0.1
"""Seconds between two looks at what is under way."""
_NAMED = 5
_LEFT_OPEN_MS = 60_000
"""How long the fence of a drain outlasts it: until then the old store must be held back."""


@dataclass(slots=True)
class Moved:
    """What a move did."""

    grants: int = 0
    keys: int = 0
    repaired: int = 0
    """Keys that the comparison found different, and copied again."""
    unanswered: Mapping[str, int] | None = None
    """By replica: token requests that were under way and whose outcome nobody recorded."""
    unproved: str = ""
    """Why nothing proves that the new store is on its disk."""
    unproved_old: str = ""
    """Why nothing proves that the old Redis keeps what says that it was left."""
    already: bool = False
    """The store had been moved there before."""


@dataclass(slots=True)
class Ends:
    """The two ends of a move: each one's connection, and where it is, as messages say it."""

    source: Primary
    target: Primary
    origin: str
    to: str


class Move:
    """One move. Every step raises `StoreUnavailable` when a Redis does not answer: repeat the move then.

    Args:
        ends: The Redis to leave and the one to go to.
        keys: Of the namespace.
        known: The id of the store that the broker of these settings knows; None: it knows none.
        replicas: How many replicas of the old Redis must confirm that it was left.
        report: Called with the name of a step, and how many grants it has dealt with.
    """

    def __init__(
        self,
        ends: Ends,
        keys: scripts.Keys,
        *,
        known: str | None = None,
        replicas: int = 0,
        report: Callable[[str, int], None] | None = None,
    ) -> None:
        self._ends = ends
        self._keys = keys
        self._known = known
        self._replicas = replicas
        self._report = report or (lambda *_: None)
        self._copy = Copy(ends.source, ends.target, keys)
        self._id, self._to = "", ends.to
        self.result = Moved()

    async def run(self, *, wait_s: float) -> Moved:
        """Move the store, or go on with a move that was broken off.

        Args:
            wait_s: For how long token requests that are under way are waited for.

        Raises:
            InvalidSettings: it cannot be moved there; nothing was changed.
            WrongStore: another process ended or aborted this move, or the old Redis lost what the move wrote.
        """
        old, new = await self._begin()
        if self.result.already:
            return self.result
        if not old.begun:
            await self._drain(wait_s)
            await self._hold_back(old)
        if not moved.is_left(old.store):
            await self._fill(new)
            await self._leave()
        await self._open()
        return self.result

    async def count_grants(self) -> int:
        """Return how many grants the old store has."""
        sets = [
            self._keys.ids(state, name) for name in await self._providers() for state in ("due", "leased", "parked")
        ]
        sizes = await self._ends.source.pipeline_each([("ZCARD", key) for key in sets])
        return sum(size for size in sizes if isinstance(size, int))  # a damaged set is copied as it is

    async def _providers(self) -> list[str]:
        fields = await self._ends.source.call("HKEYS", self._keys.meta)
        return sorted(field.decode().partition(":")[2] for field in fields if field.startswith(b"provider:"))

    async def _begin(self) -> tuple[Marks, Marks]:
        """Check both ends, and claim the new one for this move; nothing is changed where it cannot be."""
        await self._require_two()
        await self._require_rights()
        old, new = await self._marks(self._ends.source), await self._marks(self._ends.target)
        require_movable(old, new, self._ends.to, self._keys.namespace)
        require_known(old, self._known)
        if not new.store and (found := await self._copy.first_keys(self._ends.target, _NAMED)):
            raise InvalidSettings(
                f"--to: {self._ends.to} already has keys under namespace {self._keys.namespace!r} "
                f"({', '.join(found)}): choose another database or server, or remove them"
            )
        if moved.is_left(old.store) and new.store == old.move_store:
            self.result.already = True
            return old, new
        self._id = old.move_id if old.begun else secrets.token_hex(4)
        self._to = old.move_to if old.begun else self._ends.to
        if not (old.begun and new.move_id == self._id):
            await self._claim_target(old, new)
            new = await self._marks(self._ends.target)
        self._ends.source.mark = (self._keys.meta, old.store)
        self._ends.target.mark = (self._keys.meta, new.store)
        return old, new

    async def _require_two(self) -> None:
        source, target = self._ends.source, self._ends.target
        if await run_id(source) == await run_id(target) and source.database == target.database:
            raise InvalidSettings("--to: names the Redis of the settings itself: name another one")

    async def _require_rights(self) -> None:
        for where, primary in (("redis.url", self._ends.source), ("--to", self._ends.target)):
            if denied := await find_denied(primary, self._keys, NEEDED):
                words = " ".join(f"+{name.lower()}" for name in denied)
                raise InvalidSettings(
                    f"{where}: the broker's user may not send {', '.join(denied)}, which a move needs: "
                    f"ACL SETUSER … {words}, as deploy/redis/users.acl has it"
                )

    async def _claim_target(self, old: Marks, new: Marks) -> None:
        """Name the new store as arriving, so that no broker begins a store there or uses it before its time."""
        name = moved.arriving(self._ends.origin, self._id)
        facts = {"store": name, "schema": moved.ARRIVING_SCHEMA, "move_id": self._id, "move_store": old.id}
        if new.store:
            self._ends.target.mark = (self._keys.meta, new.store)
            await self._rename(self._ends.target, facts, gone=("move_cursor",))
            return
        pairs = [part for pair in facts.items() for part in pair]
        text = "if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('HSET', KEYS[1], unpack(ARGV)) end return 1"
        await self._ends.target.call("EVAL", text, 1, self._keys.meta, *pairs)
        if (await self._marks(self._ends.target)).move_id != self._id:
            raise InvalidSettings(f"--to: another store has just begun at {self._ends.to}: choose another database")

    async def _drain(self, wait_s: float) -> None:
        """Let nobody claim, and wait until the answers under way are recorded, at most *wait_s* seconds."""
        source = self._ends.source
        leased = [self._keys.ids("leased", name) for name in await self._providers()]
        await self._sizes(leased)
        args = scripts.DRAIN.args(for_ms=int(wait_s * 1000) + _LEFT_OPEN_MS)
        if not await source.run(scripts.DRAIN, scripts.DRAIN.keys(epoch=self._keys.epoch), args):
            raise StoreUnavailable(
                "Redis hides which run of it answers, so brokers cannot be drained",
                cure="let the user ask (ACL: +info)",
            )
        until = time.monotonic() + wait_s
        while True:
            under_way = sum(await self._sizes(leased))
            self._report("drain", under_way)
            if not under_way or time.monotonic() > until:
                break
            await asyncio.sleep(_EVERY)
        self.result.unanswered = await self._unanswered(leased) if under_way else {}

    async def _sizes(self, leased: list[str]) -> list[int]:
        """Return how many grants each set of leases has.

        Raises:
            DamagedSchedule: a key is none, so what is under way is not known.
        """
        sizes = await self._ends.source.pipeline_each([("ZCARD", key) for key in leased])
        for key, size in zip(leased, sizes, strict=True):
            if isinstance(size, Exception):
                raise damaged_schedule(key)
        return sizes

    async def _unanswered(self, leased: list[str]) -> dict[str, int]:
        """Return by replica how many token requests have no recorded outcome, of up to 1000 leases."""
        pages = await self._ends.source.pipeline([("ZRANGE", key, 0, 999) for key in leased])
        names = [name.decode() for page in pages for name in page]
        asked = [("HMGET", self._keys.grant(name), "attempt", "attempt_by") for name in names]
        counts: dict[str, int] = {}
        for attempt, replica in await self._ends.source.pipeline(asked):
            if attempt is not None:
                name = (replica or b"unknown").decode("utf-8", "replace")
                counts[name] = counts.get(name, 0) + 1
        return counts

    async def _hold_back(self, old: Marks) -> None:
        """Rename the old store: from here on no script of any broker runs in it."""
        facts: dict[str, Argument] = {
            "store": moved.leaving(self._ends.to, self._id),
            "schema": moved.LEFT_SCHEMA,
            "move_id": self._id,
            "move_store": old.store,
            "move_schema": old.schema,
            "move_to": self._ends.to,
            "move_at": int(time.time() * 1000),
        }
        self.result.unproved_old = await self._rename(self._ends.source, facts, replicas=self._replicas)

    async def _fill(self, new: Marks) -> None:
        """Copy and compare until both hold the same."""
        run, _, cursor = new.cursor.partition("~")
        source_run = await run_id(self._ends.source)
        if run != source_run or cursor:
            await self._copy_from(cursor if run == source_run else "0", source_run)
        different: list[str] = []
        for _ in range(_PASSES):
            self.result.grants = self.result.keys = 0
            different = await self._copy.compare(self._compared)
            self.result.repaired += len(different)
            if not different:
                return
        raise StoreUnavailable(
            f"{len(different)} keys differ again after {_PASSES} comparisons ({', '.join(different[:3])}): something "
            f"else writes under namespace {self._keys.namespace!r}",
            cure="stop it, then run the same command again",
        )

    async def _copy_from(self, cursor: str, source_run: str) -> None:
        async def copied(after: str, grants: int, keys: int) -> None:
            self.result.grants, self.result.keys = self.result.grants + grants, self.result.keys + keys
            self._report("copy", self.result.grants)
            at = f"{source_run}~{'' if after == '0' else after}"
            await self._rename(self._ends.target, {"move_cursor": at}, durably=False)

        await self._copy.copy(cursor, copied)

    def _compared(self, grants: int, keys: int, different: int) -> None:
        del different
        self.result.grants, self.result.keys = self.result.grants + grants, self.result.keys + keys
        self._report("compare", self.result.grants)

    async def _leave(self) -> None:
        """Call the old store left, once what the new one holds is on its disk."""
        self.result.unproved = await self._rename(self._ends.target, {"move_id": self._id})
        facts: dict[str, Argument] = {"store": moved.left(self._to), "move_at": int(time.time() * 1000)}
        self.result.unproved_old = await self._rename(self._ends.source, facts, replicas=self._replicas)

    async def _open(self) -> None:
        """Give the new store its id: brokers run in it from here on, each once it has replayed its journal."""
        flat = await self._ends.source.call("HGETALL", self._keys.meta)
        facts = dict(zip((name.decode() for name in flat[::2]), flat[1::2], strict=True))
        facts |= {"store": facts["move_store"], "schema": facts["move_schema"]}
        kept = {name: value for name, value in facts.items() if name not in _FIELDS}
        self.result.unproved = await self._rename(self._ends.target, kept, gone=_FIELDS, fence=True)

    async def abort(self) -> bool:
        """Return to the old store, as long as the new one was not opened; what was copied is removed there.

        Returns:
            False where the new Redis could not be reached, or takes no writes, so that what was copied is still there.

        Raises:
            InvalidSettings: there is no move to abort, or the new store was opened.
        """
        old = await self._marks(self._ends.source)
        try:
            new = await self._marks(self._ends.target)
        except StoreUnavailable:
            if moved.is_left(old.store):
                raise  # only the new Redis knows whether it was opened
            new = None
        require_abortable(old, new, self._ends.to)
        ours = new if new is not None and moved.is_arriving(new.store) and new.id == old.id else None
        if ours is not None and not await self._disown(ours):  # first: then nobody can open it
            if moved.is_left(old.store):
                raise StoreUnavailable(f"--to: {self._ends.to} takes no writes", cure="see that it does")
            new = ours = None  # as where nobody answers there
        if old.begun:
            self._ends.source.mark = (self._keys.meta, old.store)
            facts = {"store": old.move_store, "schema": old.move_schema}
            await self._rename(self._ends.source, facts, gone=_FIELDS, fence=True, replicas=self._replicas)
        if ours is not None:
            try:
                await self._copy.clear()
            except StoreUnavailable:
                return False
        return new is not None

    async def _disown(self, arriving: Marks) -> bool:
        """Name the arriving store anew, so that the move that it is of cannot go on; return whether it takes writes."""
        target, aborted = self._ends.target, secrets.token_hex(4)
        target.mark = (self._keys.meta, arriving.store)
        facts = {"store": moved.arriving(self._ends.origin, aborted), "move_id": aborted}
        try:
            await self._rename(target, facts, gone=("move_cursor",))
        except WrongStore:
            raise
        except StoreUnavailable:
            return False
        return True

    async def _marks(self, primary: Primary) -> Marks:
        names = ("store", "schema", "move_id", "move_store", "move_schema", "move_to", "move_cursor")
        replies = await primary.call("HMGET", self._keys.meta, *names)
        return Marks(*((value or b"").decode("utf-8", "replace") for value in replies))

    async def _rename(
        self,
        primary: Primary,
        facts: Mapping[str, Argument],
        *,
        gone: tuple[str, ...] = (),
        fence: bool = False,
        replicas: int = 0,
        durably: bool = True,
    ) -> str:
        """Write *facts* into `meta` where the store still has the name of `primary.mark`.

        Returns:
            Why nothing proves that it is on the disk; empty where that is proved.

        Raises:
            WrongStore: the store has another name by now.
        """
        keys = scripts.RENAME.keys(named=self._keys.meta, epoch=self._keys.epoch)
        pairs = [part for pair in facts.items() for part in pair]
        args = scripts.RENAME.args([*gone, *pairs], fence="fence" if fence else "", removed_count=len(gone))
        if durably:
            _, proved = await primary.run_durably(scripts.RENAME, [(keys, args)], replicas=replicas)
        else:
            proved = True
            await primary.run(scripts.RENAME, keys, args)
        if "store" in facts:
            name = facts["store"]
            primary.mark = (self._keys.meta, name.decode() if isinstance(name, bytes) else str(name))
        return "" if proved else primary.unproved
