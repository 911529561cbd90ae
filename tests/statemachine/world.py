"""Two replicas, two providers and three grants on one store; what can befall them, and what must hold of them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import event

from broker.refresh.policy import REPLAY_MARGIN
from broker.secret import Sealer, Secret, new_sealing_key, parse_sealing_keys
from broker.settings import Redis
from broker.store import Store, open_store
from broker.store.index_walk import examine
from tests.redis_server import RedisServer
from tests.statemachine.in_process_sandbox import GRACE, Request, Server
from tests.statemachine.replica import LEASE_MS, Replica

GRANTS = ["g0", "g1", "g2"]
PROVIDERS = ["strict", "lenient"]
NAMES = ["r1", "r2"]
STATES = ("due", "leased", "parked")
ANYTHING = "anything"
"""A family that nobody can know: the store lost what only it had heard."""


class World:
    """All of it. *truth* is a store of the test on the replicas' server, to read and to move data with."""

    server: ClassVar[RedisServer]
    runner: ClassVar[asyncio.Runner]
    number: ClassVar[int] = 0
    truth: Store

    def begin_world(self) -> None:
        """Begin with an empty store, two replicas that know it, and a token for each grant."""
        World.number += 1
        self.folder = Path(tempfile.mkdtemp(prefix="tb-machine-"))
        self.servers = {"strict": Server(0.0), "lenient": Server(float(GRACE))}
        self.sealer = Sealer(parse_sealing_keys(new_sealing_key()))
        self.redis = Redis(url=self.server.url, namespace=f"m{World.number}")
        self.expected: dict[str, str | None] = {}
        """Grant to the family that it must hold, None where it must be gone."""
        self.heard_by: dict[str, str | None] = {}
        """Grant to the replica whose journal has its family; None where only the store has it."""
        self.snapshot: tuple[dict[str, Any], dict[str, str | None]] | None = None
        self.went_back = False
        self.retried: set[str] = set()
        self.flying: list[Request] = []
        """Requests that were under way when the store became another run of it."""
        self.generations: dict[tuple[str, int], str] = {}
        self.newest: dict[str, int] = {}
        self.replicas = {
            name: Replica(name, self.folder / name, self.redis, self.sealer, self.servers, self.reachable)
            for name in NAMES
        }
        self.run(self.populate())

    async def populate(self) -> None:
        opened = open_store(self.redis, self.sealer, data_dir=self.folder)
        self.truth = await opened.__aenter__()
        self._close = opened.__aexit__
        await self.truth.identify()
        for replica in self.replicas.values():
            (self.folder / replica.name).mkdir()
            await replica.start()
            await replica.step()
        for grant, provider in zip(GRANTS, ("strict", "lenient", "strict"), strict=True):
            await self.import_(grant, provider)
        for provider in PROVIDERS:
            await self.replicas["r1"].claim(provider, len(GRANTS))
        for request in self.requests:
            await self.replicas["r1"].respond(request, "refreshed")

    async def import_(self, grant: str, provider: str) -> None:
        family, _ = self.servers[provider].begin()
        token, due_at = Secret(family.refresh_token or ""), self.truth.clock()
        imported = await self.truth.registry.import_(grant, provider, token, None, due_at=due_at)
        if imported.status in {"created", "replaced"}:
            self.expected[grant], self.heard_by[grant] = family.id, None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Let the world turn until *work* is done."""
        return self.runner.run(work)

    def reachable(self) -> frozenset[str]:
        return frozenset(name for name, replica in self.replicas.items() if replica.connected and replica.replayed)

    @property
    def requests(self) -> list[Request]:
        """All token requests under way."""
        return [request for server in self.servers.values() for request in server.requests]

    def connected(self) -> list[Replica]:
        return [replica for replica in self.replicas.values() if replica.connected]

    async def leases_end(self, *, redeemed: bool) -> None:
        """End all leases: requests time out before, every replica that can replays out, and second terms end too."""
        await self.time_out(redeemed=redeemed)
        now, call = await self.now(), self.truth.primary.call
        for provider in PROVIDERS * 2:
            key = self.truth.keys.ids("leased", provider)
            leases = await call("ZRANGE", key, 0, -1, "WITHSCORES")
            for member, score in zip(leases[::2], leases[1::2], strict=True):
                await call("ZADD", key, "XX", now - 1 + float(score) % 1, member)
            await self.step()

    async def token_ends(self, grant: str) -> None:
        await self.step()
        key, now, call = self.truth.keys.grant(grant), await self.now(), self.truth.primary.call
        if await call("HEXISTS", key, "expires_at"):
            await call("HSET", key, "expires_at", now - 1, "issued_at", now - LEASE_MS)
            await examine(self.truth, PROVIDERS, None)

    async def grace_ends(self) -> None:
        await self.step()
        self.servers["lenient"].ahead += GRACE
        call = self.truth.primary.call
        for key in map(self.truth.keys.grant, GRANTS):
            for name in ("unknown_at", "attempt_at"):
                if await call("HEXISTS", key, name):
                    await call("HINCRBY", key, name, -GRACE * 1000)

    async def copied(self) -> None:
        await self.step()
        call = self.truth.primary.call
        dumped = {key: await call("DUMP", key) for key in await call("KEYS", f"{self.redis.namespace}:*")}
        self.snapshot = dumped, dict(self.expected)

    async def another_run(self, first: str, *, back: bool) -> None:
        """Make the store another run: requests under way end before the fence opens, every replica that can replays."""
        before, call = dict(self.expected), self.truth.primary.call
        if back and self.snapshot is not None:
            dumped, before = self.snapshot
            self.went_back = True
            await call("DEL", *await call("KEYS", f"{self.redis.namespace}:*"))
            for key, value in dumped.items():
                await call("RESTORE", key, 0, value)
        await call("HSET", self.truth.keys.epoch, "run_id", "0" * 40)
        self.flying = self.requests
        for replica in self.replicas.values():
            replica.replayed = False
        for grant in set(before) | set(self.expected):
            by = self.heard_by.get(grant)
            if before.get(grant) != self.expected.get(grant) and not (by and self.replicas[by].connected):
                self.expected[grant] = ANYTHING
        self.newest.clear()
        await self.step(first)

    async def at_the_end(self) -> None:
        for replica in self.replicas.values():
            await self.healed(replica)
        await self.step()
        await self.time_out(redeemed=False)
        assert not (wrong := await self.wrong()), wrong
        for grant in GRANTS:
            held, stored = await self.truth.grants.get(grant), await self.truth.grants.refresh_token(grant)
            if held is None or stored is None:
                continue
            server = self.servers[held.provider]
            if not server.lives(stored[1].reveal()):
                event("lost although it was heard" if server.limits else "lost unheard")
                named = await self.truth.primary.call(
                    "HMGET", self.truth.keys.grant(grant), "unknown_at", "attempt", "reason"
                )
                # A store that went back forgot that, and whoever retried had read it; the log has it.
                assert any(named) or self.went_back or grant in self.retried, f"{grant} is lost, and nothing says so"

    async def end_all(self) -> None:
        for replica in self.replicas.values():
            if replica.up:
                await replica.kill()
        await self.truth.primary.call("FLUSHALL")
        await self._close(None, None, None)

    async def falls_due(self, grant: str, provider: str) -> None:
        """Its window has come, and the provider may be asked."""
        keys, call = self.truth.keys, self.truth.primary.call
        await call("ZADD", keys.ids("due", provider), "XX", 1, grant)
        if await call("HEXISTS", keys.provider(provider), "not_before"):
            await call("HSET", keys.provider(provider), "not_before", 1)

    async def healed(self, replica: Replica) -> None:
        if replica.cut:
            replica.line.mended.set()
            await replica.rest()
        elif not replica.up:
            await replica.start()

    async def now(self) -> int:
        seconds, micros = await self.truth.primary.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def step(self, first: str = "r1") -> None:
        """Every replica that can goes through its lanes."""
        for replica in sorted(self.connected(), key=lambda replica: replica.name != first):
            await replica.rest()
            await replica.step()

    async def time_out(self, *, redeemed: bool) -> None:
        for request in self.requests:
            await self.replicas[request.sender].respond(request, "silent after" if redeemed else "silent before")
        await self.step()

    def doom(self, replica: Replica, verb: str, fate: dict[str, str]) -> None:
        if fate:
            replica.line.fates[verb, fate["when"]] = fate["fate"]

    def end_the_dead(self) -> None:
        for replica in self.replicas.values():
            if replica.up:
                if replica.line.died.is_set():
                    event("died of a call")
                    self.run(self.killed(replica, redeemed=True))
                else:
                    replica.line.fates.clear()

    async def killed(self, replica: Replica, *, redeemed: bool) -> None:
        await replica.kill()
        for request in self.requests:
            if request.sender == replica.name:
                request.server.process(request, "refreshed" if redeemed else "silent before", heard=False)

    async def states(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {grant: [] for grant in GRANTS}
        for grant in GRANTS:
            for provider in PROVIDERS:
                for state in STATES:
                    key = self.truth.keys.ids(state, provider)  # type: ignore[arg-type]
                    if await self.truth.primary.call("ZSCORE", key, grant) is not None:
                        found[grant].append(state)
        return found

    async def misplaced(self) -> list[str]:
        """Grants whose place in the index is not what their hashes say."""
        keys = self.truth.keys
        commands: list[tuple[str, ...]] = []
        for grant in GRANTS:
            commands.append(("HMGET", keys.grant(grant), "provider", "expires_at", "reason", "failures"))
            commands += [("ZSCORE", key, grant) for name in PROVIDERS for key in (keys.ends(name), keys.failing(name))]
        replies = iter(await self.truth.primary.pipeline(commands))
        wrong = []
        for grant in GRANTS:
            provider, ends_at, reason, failures = next(replies)
            found = [next(replies) for _ in range(2 * len(PROVIDERS))]
            wanted: list[float | None] = []
            for name in PROVIDERS:
                held = provider is not None and provider.decode() == name
                at = float(ends_at or 0) if held else None
                wanted += [at, at if reason is not None or int(failures or 0) else None]
            if [None if at is None else float(at) for at in found] != wanted:
                wrong.append(f"{grant}: {found}, but {wanted}")
        return wrong

    async def rash(self, before: list[Request]) -> list[str]:
        """Grants that are asked for again, since *before*, although nobody knows what came of the last time.

        A strict server would end them, and their tokens with them; those that still live are to be served first.
        """
        found = []
        for grant in GRANTS:
            held = await self.truth.grants.refresh_token(grant)
            for request in set(self.requests) - set(before):
                if held is None or request.token != held[1].reveal() or request.server.grace:
                    continue
                key = self.truth.keys.grant(grant)
                unknown_at, expires_at = await self.truth.primary.call("HMGET", key, "unknown_at", "expires_at")
                if unknown_at is not None and int(expires_at or 0) > await self.now() + REPLAY_MARGIN:
                    found.append(f"{grant} is asked for again, its last outcome unknown")
        return found

    async def wrong(self) -> list[str]:
        """Grants that hold something else than they must."""
        wrong = []
        for grant in GRANTS:
            held = await self.truth.grants.refresh_token(grant)
            expected = self.expected.get(grant)
            hidden = self.out_of_reach(self.heard_by.get(grant))
            if held is None:
                if expected not in {None, ANYTHING} and not hidden:
                    wrong.append(f"{grant} is gone")
                continue
            server, token = self.servers[held[0]], held[1].reveal()
            family = server.family(token)
            assert family is not None
            if expected not in {family.id, ANYTHING} and not hidden:
                wrong.append(f"{grant} holds a token of another login, import or nothing at all")
            over = family.revoked and expected != family.id  # by a log out that the store forgot
            if over or server.lives(token) or family.id in server.unheard | server.limits:
                continue
            holders = server.holders.get(family.refresh_token or "", set())
            if not holders or any(not self.out_of_reach(name) for name in holders):
                wrong.append(f"{grant} holds a token that is dead, {sorted(holders)} know the living one")
        return wrong

    def out_of_reach(self, name: str | None) -> bool:
        return name is not None and not self.replicas[name].connected
