"""Send notices through one channel in groups: what falls due together about one provider is one notice.

What is pending is recorded before it is sent. The id of a notice follows from what it says, so a repetition after a
crash or a lost response carries the same id, and one that says something else another.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from broker.notify import policy, timing
from broker.notify.notice import Notice
from broker.notify.policy import LastNotice, Problem
from broker.notify.sender import BATCH, LEASE, Sender

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.model import NoticeEvent
    from broker.notify.sender import Found
    from broker.notify.timing import Timing
    from broker.store import Leased

_LARGEST = 1000
"""Grants in one notice, at most."""
_AT_ONCE = 20
"""Calls to the store under way at the same time."""


@dataclass(frozen=True, slots=True)
class Member:
    """A subject whose notice is due."""

    leased: Leased
    found: Found
    event: NoticeEvent
    incident: str
    last: LastNotice
    """With the pending notice."""
    before: LastNotice
    """What was remembered before: what people know."""

    @property
    def provider(self) -> str:
        """Its provider; of a grant that is gone, the one that people know."""
        return self.found.provider or timing.provider_of(self.before.incident)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for members of one group."""
        condition, single = self.found.condition, self.leased.subject.startswith("provider/")
        level = condition.level if isinstance(condition, Problem) else 0
        incident = "" if self.event == "recovered" else self.incident
        return self.event, self.provider, level, incident, self.last.tries, single and self.leased.subject


class GroupedSender(Sender):
    """Notify through one channel, in groups and at the times that *timing* says."""

    def __init__(self, *args: Any, timing: Timing, **more: Any) -> None:
        super().__init__(*args, **more)
        self._timing = timing

    async def _process_batch(self) -> None:
        lease = LEASE + self._timeout
        ends = time.monotonic() + lease
        due: list[Member] = []
        while len(due) < _LARGEST:
            leased = await self._notices.lease(self.channel.name, BATCH, int(lease * 1000))
            found = await self._conditions(leased)
            members = [self._judge(*pair) for pair in zip(leased, found, strict=True)]
            await self._finish(each for each in members if not isinstance(each, Member))
            due += (waiting := [each for each in members if isinstance(each, Member)])
            if len(leased) < BATCH or not waiting:  # more may be due of the same
                break
        if not self._failures:
            self.heartbeat.trouble = ""
        groups: dict[tuple[Any, ...], list[Member]] = {}
        for member in due:
            groups.setdefault(member.key, []).append(member)
        rest = list(groups.values())
        while rest:
            self.heartbeat.signal(allow=self._timeout)
            if time.monotonic() + 2 * self._timeout > ends or not await self._send(rest.pop(0)):
                now = self._store.clock()
                await self._finish((each.leased, each.leased.record, now) for group in rest for each in group)
                break

    def _judge(self, leased: Leased, found: Found) -> Member | tuple[Leased, str, int | None]:
        """Return the subject as a member of a group if its notice is due, else what to store of it."""
        last = LastNotice.parse(leased.record)
        plan = timing.plan(
            found.condition,
            last,
            self._store.clock(),
            self.events,
            self._timing,
            provider=found.provider or timing.provider_of(last.incident),
            recovered_after=policy.RECOVERED_AFTER if leased.subject.startswith("provider/") else 0,
        )
        if plan.event is None:
            return leased, plan.last.serialize(), plan.check_at
        return Member(leased, found, plan.event, plan.incident, last=plan.last, before=last)

    async def _finish(self, records: Iterable[tuple[Leased, str, int | None]]) -> list[Leased | None]:
        """Store what is known of subjects, and when each is due again; return their leases as they are then."""
        channel, todo = self.channel.name, list(records)
        done: list[Leased | None] = []
        for start in range(0, len(todo), _AT_ONCE):
            calls = (self._notices.finish(channel, *each) for each in todo[start : start + _AT_ONCE])
            done += await asyncio.gather(*calls)
        return done

    async def _send(self, members: list[Member]) -> bool:
        """Send one notice of the *members*; return False if the receiver did not accept it."""
        new = [each for each in members if each.leased.record != each.last.serialize()]
        renewed = await self._finish((each.leased, each.last.serialize(), each.leased.ends) for each in new)
        kept = {id(each): lease for each, lease in zip(new, renewed, strict=True)}
        members = [
            replace(each, leased=lease) for each in members if (lease := kept.get(id(each), each.leased)) is not None
        ]
        if not members:
            return True
        members.sort(key=lambda each: (each.last.since, each.leased.subject))
        notice = Notice.for_group(
            _notice_id(self.channel.name, members),
            [self._notice(each) for each in members],
            self._page,
            await self._ended(members),
        )
        retry = await self._attempt(notice, members[0].last)
        if retry is not None:
            last, again = retry
            await self._finish(
                (each.leased, replace(each.last, tries=last.tries).serialize(), again) for each in members
            )
            return False
        await self._finish((each.leased, *self._delivered(each)) for each in members)
        return True

    def _delivered(self, member: Member) -> tuple[str, int | None]:
        last, check_at = timing.after_delivery(member.found.condition, self._store.clock(), member.incident)
        return last.serialize(), check_at

    def _notice(self, member: Member) -> Notice:
        notice = Notice.for_subject(
            "",
            member.event,
            member.last.since,
            member.leased.subject,
            provider=member.provider,
            condition=member.found.condition,
            ownership=member.found.ownership,
            page=self._page,
        )
        return replace(notice, incident=member.incident, was=member.before.incident)

    async def _ended(self, members: Sequence[Member]) -> tuple[str, ...]:
        """Return the incidents that *members* leave and in which no other subject is left.

        Two replicas may both see the last one leave, and say so twice; that neither does cannot be, since each has
        recorded that its own subjects leave before it reads the records.
        """
        if self._timing.repeat_ms is None:
            return ()
        left = {
            each.before.incident
            for each in members
            if each.before.incident and (each.event == "recovered" or each.incident != each.before.incident)
        }
        if left:
            own = {each.leased.subject for each in members}
            async for subject, record in self._notices.records(self.channel.name):
                last = LastNotice.parse(record)
                if subject not in own and last.news != "recovered":
                    left.discard(last.incident)
        return tuple(sorted(left))


def _notice_id(channel: str, members: Sequence[Member]) -> str:
    """Return an id that the same notice has at each try: of what happened to whom, and since when."""
    said = "\n".join(f"{each.leased.subject} {each.last.since} {each.last.news}" for each in members)
    return "msg_" + hashlib.sha256(f"{channel}\n{said}".encode()).hexdigest()[:24]
