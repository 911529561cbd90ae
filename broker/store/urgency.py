"""Which grants have no valid token for callers, which end soonest, and how many: one index of each provider says it.

The index is two sorted sets of grant ids, by when the access token ends: `ends` has every grant, `failing` those that
are parked or failed last time. The scripts that move a grant keep both by its hash (`index_grant` in the prelude), so
a list and a count cost about the same with a thousand grants as with a million. A broker of a version without the index
leaves it out of date: a list corrects what it reads, and `index_walk` corrects the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from broker.errors import InvalidRequest
from broker.model import GRANT_ID
from broker.store import scripts
from broker.store.cursor import FOREIGN_CURSOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from broker.model import Grant, State
    from broker.store.clock import Clock
    from broker.store.grants import Grants
    from broker.store.redis.primary import Primary

Kind = Literal["ends", "failing", "healthy"]

INDEXED = "indexed"
"""The field of `meta` that says that every grant was written into the index once."""
_KINDS: tuple[Kind, ...] = ("ends", "failing", "healthy")
"""The parts of a list, in order: all whose token has ended, the failing ones, the others."""
_LEAST = 100
"""Least number of grants that one trip examines."""
_MOST_EXAMINED = 2_000
"""Most grants that one page examines."""
_LAST = "~"
"""Comes after every id."""
_CURSOR = re.compile(rf"urgent~([012])~([0-9]{{1,15}})~([0-9]{{0,15}})~({GRANT_ID.pattern}|~|)")


@dataclass(frozen=True, slots=True)
class Ends:
    """The tokens of one provider in figures."""

    grants: int
    unserved: int
    """Grants without a valid token."""
    next_end: int | None
    """When the next token of a grant ends that is neither parked nor failing, epoch ms; None: there is no such token,
    or none among the next 64."""


@dataclass(frozen=True, slots=True)
class UrgentRow:
    """One grant of an urgent list."""

    state: State
    grant: Grant
    served: bool
    """Whether callers get a token now."""
    unserved_since: int | None
    """When its last token ended, or, without any, when it was granted, epoch ms; None: it is served, or no sealing key
    opens it."""


@dataclass(frozen=True, slots=True)
class UrgentPage:
    """A part of an urgent list and the cursor to the next."""

    rows: list[UrgentRow]
    next: str | None


class _Place(NamedTuple):
    """Behind which place a list goes on.

    `began` is when its first page was made (epoch ms): what ended by then counts as unserved on all its pages.
    """

    part: int
    began: int
    score: str
    member: str

    @classmethod
    def parse(cls, cursor: str | None, now: int) -> _Place:
        """Parse a cursor; None begins a list.

        Raises:
            InvalidRequest: It is of no page of an urgent list.
        """
        if cursor is None:
            return cls(0, now, "", "")
        read = _CURSOR.fullmatch(cursor)
        if read is None:
            raise InvalidRequest(FOREIGN_CURSOR)
        return cls(int(read[1]), int(read[2]), read[3], read[4])

    def __str__(self) -> str:
        return f"urgent~{self.part}~{self.began}~{self.score}~{self.member}"

    def next_part(self) -> _Place | None:
        """Return the beginning of the part behind this one; None: this is the last."""
        if self.part + 1 == len(_KINDS):
            return None
        return _Place(self.part + 1, self.began, str(self.began), _LAST)


class _Found(NamedTuple):
    """A grant of a list, and the score of its place."""

    provider: str
    grant_id: str
    score: str


class Urgency:
    """Reads the index. Every asynchronous method raises `StoreUnavailable` when Redis does not answer."""

    def __init__(self, primary: Primary, keys: scripts.Keys, grants: Grants, clock: Clock) -> None:
        self._primary = primary
        self._keys = keys
        self._grants = grants
        self._clock = clock

    async def is_complete(self) -> bool:
        """Return whether the index has every grant: soon after an upgrade it may not yet."""
        return await self._primary.call("HGET", self._keys.meta, INDEXED) is not None

    async def summary(self, providers: Iterable[str]) -> dict[str, Ends]:
        """Return the figures of each provider, in one trip."""
        names, script = list(providers), scripts.SUM_ENDS
        if not names:
            return {}
        sets = [key for name in names for key in (self._keys.ends(name), self._keys.failing(name))]
        replies = await self._primary.run(script, script.keys(sets), script.args())
        return {
            name: Ends(grants, unserved, int(next_end) if next_end else None)
            for name, (grants, unserved, next_end) in zip(names, replies, strict=True)
        }

    async def counts(self, providers: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Return of each provider how many grants it has, and how many of them have no valid token."""
        return {name: (ends.grants, ends.unserved) for name, ends in (await self.summary(providers)).items()}

    async def next_end(self, providers: Iterable[str]) -> int | None:
        """Return when the next token of a healthy grant ends (epoch ms), over all *providers*; see `Ends`."""
        found = [ends.next_end for ends in (await self.summary(providers)).values()]
        return min((at for at in found if at is not None), default=None)

    async def rows(
        self,
        providers: Sequence[str],
        cursor: str | None,
        limit: int,
        permitted: Callable[[str], bool] = lambda _: True,
        *,
        states: Sequence[State] = ("due", "leased", "parked"),
    ) -> UrgentPage:
        """List grants over all *providers*, the most urgent first.

        First those without a valid token, the longest unserved first (before all, those that never had one); then the
        parked and failing ones, then all others, by when their token ends. A grant that changes between two calls may
        be seen twice or not at all.

        Args:
            providers: Whose grants.
            cursor: Where to go on: `next` of the page before; None: at the beginning.
            limit: How many grants. Where many are not permitted, or in other states, a page may be shorter.
            permitted: Whether the caller may see a grant of this id.
            states: Which grants.

        Raises:
            InvalidRequest: The cursor is of no page.
        """
        place: _Place | None = _Place.parse(cursor, self._clock())
        names = sorted(set(providers))
        rows: list[UrgentRow] = []
        examined, many = 0, max(limit + 1, _LEAST)
        while names and place is not None and examined < _MOST_EXAMINED and len(rows) < limit:
            found, following = await self._merged(names, place, many)
            examined += many
            chosen = [each for each in found if permitted(each.grant_id)]
            while chosen and len(rows) < limit:
                few, chosen = chosen[: limit - len(rows)], chosen[limit - len(rows) :]
                rows += [row for row in await self._described(few) if row is not None and row.state in states]
                place = place._replace(score=few[-1].score, member=few[-1].grant_id)
            if not chosen:
                place = following
        return UrgentPage(rows, None if place is None or not names else str(place))

    async def _merged(self, providers: Sequence[str], place: _Place, many: int) -> tuple[list[_Found], _Place | None]:
        """Return what is behind *place* among the next *many* grants, and where the list goes on."""
        script, keys = scripts.MERGE_ENDS, self._keys
        score, member, *rows = await self._primary.run(
            script,
            script.keys(grant_prefix=keys.grants, ends_prefix=keys.ends(""), failing_prefix=keys.failing("")),
            script.args(
                providers,
                kind=_KINDS[place.part],
                score=place.score,
                member=place.member,
                upto=place.began if place.part == 0 else "",
                limit=many,
            ),
        )
        found = [_Found(providers[number - 1], grant_id.decode(), at.decode()) for number, grant_id, at in rows]
        if not member:
            return found, place.next_part()
        return found, place._replace(score=score.decode(), member=member.decode())

    async def _described(self, found: Sequence[_Found]) -> list[UrgentRow | None]:
        """Return each grant as it is now; None: it is gone."""
        placed = await self._grants.placed_each([(each.provider, each.grant_id) for each in found])
        now = self._clock()
        return [None if each is None else _row(*each, now) for each in placed]


def _row(state: State, grant: Grant, now: int) -> UrgentRow:
    ends_at = grant.token.expires_at if grant.token else None
    served = ends_at is not None and ends_at > now
    since = None if served or grant.unreadable else ends_at or grant.granted_at
    return UrgentRow(state, grant, served, since)
