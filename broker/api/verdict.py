"""Gather the facts of the verdict within a second, from memory where Redis does not answer. Knows no route.

Since when something is wrong is kept by whoever noticed it: the loops, the journal, the store, and this module's own
`run`, which gathers the facts every few seconds whether anybody asks or not.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from broker.errors import MovedStore, StoreUnavailable, WrongStore
from broker.process.tasks import run_until
from broker.report.facts import Facts, LoopFacts, Memory, ProviderFacts, StoreTrouble, UrgentGrant
from broker.report.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.api.health import Health, Watched
    from broker.model import Token
    from broker.process.heartbeat import Heartbeat
    from broker.report.verdict import Verdict
    from broker.store import ProviderState
    from broker.store.urgency import Ends, UrgentRow

_FETCH_TIMEOUT = 1.0
_TTL = 1.0
"""Seconds for which a verdict counts as recent."""
_PAUSE = 5.0
"""Seconds between two times that the facts are gathered without a request."""
_READ = 100
"""Grants that are read one by one, most urgent first."""
_MANY = 5_000
"""Tokens in memory, beyond which a thread looks through them."""
_MINUTE_MS = 60_000
"""By so much the time of a provider's last answer may be wrong."""
_SLOW = "start Redis, or find out what keeps it busy"


class Verdicts:
    """Gathers the facts of what is *watched*, and judges them."""

    def __init__(self, watched: Watched, health: Health, heartbeat: Heartbeat) -> None:
        self.health = health
        self._heartbeat = heartbeat
        self._store = watched.store
        self._journal = watched.journal
        self._cache = watched.cache
        self._connections = watched.connections
        self._audit = watched.audit
        self._lost = watched.lost
        self._heartbeats = watched.heartbeats
        self._providers = watched.providers
        self._since: dict[str, int] = {}
        """By what is wrong, when it was noticed first (epoch seconds)."""
        self._gathering: asyncio.Task[Facts] | None = None
        self._fresh_until = 0.0
        self.last: Verdict | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Gather the facts every few seconds until *stopping* is set."""
        while not stopping.is_set():
            self._heartbeat.signal()
            await self.facts()
            await run_until(stopping, asyncio.sleep(_PAUSE))

    async def facts(self) -> Facts:
        """Return the facts as of now; simultaneous calls share them."""
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.create_task(self._gather(), name="facts")
        return await asyncio.shield(self._gathering)

    async def recent(self) -> Verdict:
        """Return the verdict of the last second, with times of this machine's zone: for routes that need no key."""
        if self.last is None or time.monotonic() > self._fresh_until:
            await self.facts()
        return self.last or judge(await self.facts())

    async def _gather(self) -> Facts:
        now = self._store.clock() // 1000
        known = await self._ask_store() if self.health.started else None
        trouble = self._store_trouble(known if isinstance(known, StoreUnavailable) else None)
        journal, connections, audit = self._journal, self._connections.trouble, self._audit
        of_store = _Known() if known is None or isinstance(known, StoreUnavailable) else known
        fence = of_store.fence or (None, None)
        facts = Facts(
            now=now,
            started=self.health.started,
            stopping=self.health.stopping,
            store=trouble,
            providers=of_store.providers,
            counting=of_store.counting,
            grants=of_store.grants,
            more_grants=len(of_store.grants) >= _READ,
            fenced_since=_seconds(fence[0]),
            fenced_until=_seconds(fence[1]),
            unproved=self._store.primary.unproved if self._store.primary.replicas else "",
            journal_fault=(journal.fault or "") if journal else "",
            journal_since=_whole(journal.fault_since) if journal else None,
            audit_fault=audit.fault if audit else "",
            audit_refuses=audit.refuses if audit else False,
            audit_since=self._noticed("audit", wrong=bool(audit and audit.fault)),
            lost=self._lost.named,
            lost_since=_whole(self._lost.heartbeat.trouble_since),
            loops=self._loops(),
            connections=connections,
            connections_since=self._noticed("connections", wrong=bool(connections)),
            memory=await self.memory(now),
        )
        self.last, self._fresh_until = judge(facts), time.monotonic() + _TTL
        if self.health.started:
            self.health.verdict = self.last.public_summary
        return facts

    def _noticed(self, what: str, *, wrong: bool) -> int | None:
        """Return since when *what* has been wrong, as far as it was noticed here."""
        if not wrong:
            self._since.pop(what, None)
            return None
        return self._since.setdefault(what, int(time.time()))

    async def _ask_store(self) -> _Known | StoreUnavailable:
        try:
            async with asyncio.timeout(_FETCH_TIMEOUT):
                return await self._read_store()
        except StoreUnavailable as error:
            return error
        except TimeoutError:
            return StoreUnavailable("Redis does not answer", cure=_SLOW)

    async def _read_store(self) -> _Known:
        store = self._store
        names = sorted({*self._providers, *await store.grants.known_providers()})
        fence, complete, states, ends, page = await asyncio.gather(
            store.attempts.fence(),
            store.urgency.is_complete(),
            store.grants.providers(names),
            store.urgency.summary(names),
            store.urgency.rows(names, None, _READ),
        )
        if not complete or any(2 * ends[each.name].grants < sum(each.counts.values()) for each in states):
            # Soon after an upgrade, or where Redis has lost the index: the walk makes it anew. It may also look so for
            # a moment in which many grants are imported.
            return _Known(fence=fence, counting=True)
        due = await store.soonest.first_due([state.name for state in states if state.ailing])
        return _Known(
            providers=[self._provider(state, ends[state.name], due.get(state.name)) for state in states],
            grants=[_urgent(row) for row in page.rows if not row.served or row.grant.reason or row.grant.failures],
            fence=fence,
        )

    def _provider(self, state: ProviderState, ends: Ends, next_due: int | None) -> ProviderFacts:
        return ProviderFacts(
            name=state.name,
            configured=state.name in self._providers,
            grants=ends.grants,
            unserved=ends.unserved,
            suspended=state.suspended,
            suspended_since=_seconds(state.suspended_at),
            failures=state.ailing,
            failing_since=self._failing_since(state),
            missing_since=self._noticed(
                f"missing {state.name}", wrong=ends.grants > 0 and state.name not in self._providers
            ),
            detail=state.detail,
            not_before=_seconds(state.not_before),
            next_due=_seconds(next_due),
            next_end_at=_seconds(ends.next_end or None),
        )

    def _failing_since(self, state: ProviderState) -> int | None:
        """Return since when a provider fails; as it was noticed here where an older broker met the first failure."""
        noticed = self._noticed(f"provider {state.name}", wrong=bool(state.ailing))
        if not state.ailing or state.failing_since is None:
            return noticed
        is_old = state.answered_at is not None and state.failing_since + _MINUTE_MS < state.answered_at
        return noticed if is_old else _seconds(state.failing_since)

    def _store_trouble(self, error: StoreUnavailable | None) -> StoreTrouble | None:
        """Return what is wrong with the store, by the *error* that was met here, or by what keeps the loops."""
        if error is None and not self.health.started:
            error = self.health.waiting_for
        if error is None:
            lost = [each.store_error for each in self._heartbeats() if each.store_error is not None]
            error = next((each for each in lost if isinstance(each, WrongStore)), lost[0] if lost else None)
        if error is None:
            self._noticed("store", wrong=False)
            return None
        return self.trouble(error)

    def trouble(self, error: StoreUnavailable) -> StoreTrouble:
        """Return what *error* means, and since when: when the first loop met it, or somebody here."""
        noticed = [self._noticed("store", wrong=True)]
        noticed += [_whole(each.trouble_since) for each in self._heartbeats() if each.store_error is not None]
        noticed += [_whole(self.health.waiting_since)] if not self.health.started else []
        since = min(at for at in noticed if at is not None)
        kind: Literal["redis", "wrong_store"] = "wrong_store" if isinstance(error, WrongStore) else "redis"
        return StoreTrouble(kind, _words(error), error.cure, since)

    def end_in_memory(self, grant_id: str) -> int | None:
        """Return when the token of a grant in memory ends (epoch seconds), or ended; None: memory holds none."""
        token = self._cache.get(grant_id)
        return token.expires_at // 1000 if token else None

    def _loops(self) -> list[LoopFacts]:
        """Return the loops that do not work, except for what follows from a Redis that cannot be used."""
        found = []
        for each in self._heartbeats():
            if not each.alive:
                since = int(time.time() - each.silent_for())
                found.append(LoopFacts(each.name, f"no progress for {each.silent_for():.0f} s", since, alive=False))
            elif each.store_error is None:
                # Lost grants are a cause of their own.
                trouble = self._lost.damage if each is self._lost.heartbeat else each.trouble
                if trouble:
                    found.append(LoopFacts(each.name, trouble, _whole(each.trouble_since)))
        return found

    async def memory(self, now: int, may_use: Callable[[str], bool] = lambda _: True) -> Memory:
        """Return which tokens memory holds of the providers that *may_use* names, *now* (epoch seconds)."""
        tokens, at = self._cache.tokens(), now * 1000
        many = len(tokens) > _MANY
        return await asyncio.to_thread(_look, tokens, at, may_use) if many else _look(tokens, at, may_use)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the store says."""

    providers: Sequence[ProviderFacts] | None = None
    grants: Sequence[UrgentGrant] = ()
    fence: tuple[int, int] | None = None
    counting: bool = False


def _urgent(row: UrgentRow) -> UrgentGrant:
    grant = row.grant
    return UrgentGrant(
        grant.grant_id,
        grant.provider,
        row.served,
        reason=grant.reason or ("tampered" if grant.tampered else None),
        failures=grant.failures,
        expires_at=_seconds(grant.token.expires_at) if grant.token else None,
        next_at=_seconds(grant.refresh_at) if row.state == "due" else None,
        unserved_since=_seconds(row.unserved_since),
        unreadable=grant.unreadable,
    )


def _look(tokens: Sequence[Token], now: int, may_use: Callable[[str], bool]) -> Memory:
    ends = [token.expires_at for token in tokens if token.expires_at > now and may_use(token.provider)]
    return Memory(len(ends), min(ends) // 1000, max(ends) // 1000) if ends else Memory()


def _words(error: StoreUnavailable) -> str:
    """Return what an error says, as a sentence: `Redis cannot be reached`."""
    what = str(error).removeprefix("Redis: ").removeprefix("Redis ")
    return what[:1].upper() + what[1:] if isinstance(error, MovedStore) else f"Redis {what}"


def _seconds(at: int | None) -> int | None:
    return None if at is None else at // 1000


def _whole(at: float | None) -> int | None:
    return None if at is None else int(at)
