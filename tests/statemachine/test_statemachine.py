"""Grants, every outcome, every point to be killed at: in any order, no received token is lost or redeemed twice.

`BROKER_TEST_MACHINE=2000` runs so many examples, each one new.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker.login import recorder as login_recorder
from broker.refresh import recorder
from tests.redis_server import start_redis
from tests.statemachine.in_process_sandbox import KINDS
from tests.statemachine.replica import OWNER, owned
from tests.statemachine.world import GRANTS, NAMES, PROVIDERS, World

_EXAMPLES = int(os.environ.get("BROKER_TEST_MACHINE", "0"))
_FATES = [
    {},
    {},
    {},
    {"when": "before", "fate": "lost"},
    {"when": "after", "fate": "lost"},
    {"when": "before", "fate": "killed"},
    {"when": "after", "fate": "killed"},
]
_KINDS = (*KINDS, *["refreshed"] * 8, *["silent after"] * 3)
_BETWEEN = ["", "", "", "", "import", "log in", "copied", "goes back"]
grants, providers, names = st.sampled_from(GRANTS), st.sampled_from(PROVIDERS), st.sampled_from(NAMES)
fates = st.sampled_from(_FATES)


class Machine(World, RuleBasedStateMachine):
    """The rules: what people, replicas, servers, time and the store do."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        """All is well."""
        self.dice = random.Random(seed)
        self.begin_world()

    # What people do -------------------------------------------------------------------------------------

    @rule(
        what=st.sampled_from(["import", "log in", "log in", "log out"]),
        grant=grants,
        provider=providers,
        name=names,
        fate=fates,
    )
    def come_and_go(self, what: str, grant: str, provider: str, name: str, fate: dict[str, str]) -> None:
        """Somebody imports or logs in, new or over what is there, or logs out."""
        replica = self.replicas[name]
        if what == "import":
            self.run(self.import_(grant, provider))
        elif replica.connected and what == "log in":
            family, body = self.servers[provider].begin()
            self.doom(replica, "register", fate)
            self.run(replica.log_in(grant, provider, body))
            self.expected[grant], self.heard_by[grant] = family.id, name
            self.end_the_dead()
        elif replica.connected and self.run(self.states())[grant] in (["due"], ["parked"]):
            self.run(replica.log_out(grant))
            self.expected[grant], self.heard_by[grant] = None, name

    @rule(grant=grants, what=st.sampled_from(["retry", "expedite", "resume"]))
    def operate(self, grant: str, what: str) -> None:
        """Somebody takes a grant or its provider up again, or reports a 401."""
        schedule, held = self.truth.schedule, self.run(self.truth.grants.get(grant))
        if held is None:
            return
        match what:
            case "retry":
                self.run(schedule.retry(grant, held.provider))
                self.retried.add(grant)
            case "expedite":
                self.run(schedule.expedite(held, interval_ms=0, generation=held.generation))
            case _:
                self.run(schedule.resume(held.provider))

    # What replicas and servers do -----------------------------------------------------------------------

    @precondition(lambda self: not set(self.flying) & set(self.requests))
    @rule(grant=grants, name=names, n=st.integers(1, 3), fate=fates)
    def ask(self, grant: str, name: str, n: int, fate: dict[str, str]) -> None:
        """Have a grant fall due, and a replica claim what is due of its provider, and ask."""
        replica, held = self.replicas[name], self.run(self.truth.grants.get(grant))
        if replica.up and held is not None:
            self.run(self.falls_due(grant, held.provider))
            if replica.connected:
                self.doom(replica, "claim", fate)
            before = self.requests
            self.run(replica.claim(held.provider, n))
            self.end_the_dead()
            assert not (rash := self.run(self.rash(before))), rash

    @precondition(lambda self: self.requests)
    @rule(pick=st.integers(0, 5), kind=st.sampled_from(_KINDS), fate=fates)
    def respond(self, pick: int, kind: str, fate: dict[str, str]) -> None:
        """Let a server answer a request, well or badly; its sender records the answer, or is killed."""
        request = self.requests[pick % len(self.requests)]
        replica = self.replicas[request.sender]
        if replica.connected:
            for verb in ("commit", "postpone", "park"):
                self.doom(replica, verb, fate)
        self.run(replica.respond(request, kind))
        self.end_the_dead()

    @precondition(lambda self: not set(self.flying) & set(self.requests))
    @rule(many=st.integers(1, 4))
    def refresh(self, many: int) -> None:
        """Both, with something between them or not, a few times, as the dice of this example fall.

        What Hypothesis draws is mostly the simplest, and few examples would get far.
        """
        for _ in range(many):
            if set(self.flying) & set(self.requests):
                return
            grant, name, between = self.dice.choice(GRANTS), self.dice.choice(NAMES), self.dice.choice(_BETWEEN)
            self.ask(grant, name, 1, {})
            if between in {"import", "log in"}:
                self.come_and_go(between, grant, "strict", self.dice.choice(NAMES), {})
            elif between:
                self.store(between, self.dice.choice(NAMES))
            if self.requests:
                self.respond(-1, self.dice.choice(_KINDS), self.dice.choice(_FATES))

    @rule(
        name=names, how=st.sampled_from(["killed", "killed, its requests are processed", "is cut off", "is well again"])
    )
    def harm(self, name: str, how: str) -> None:
        """Kill a replica, or cut it off from the store; or end that."""
        replica = self.replicas[name]
        if how == "is well again":
            self.run(self.healed(replica))
        elif replica.up and how != "is cut off":
            self.run(self.killed(replica, redeemed=how != "killed"))
        elif replica.connected:
            replica.line.mended.clear()
            replica.replayed = False

    # What time does: the data is moved, not the clock ---------------------------------------------------

    @rule(what=st.sampled_from(["lease", "token", "grace"]), grant=grants, redeemed=st.booleans())
    def time_passes(self, what: str, grant: str, redeemed: bool) -> None:
        """Longer than a lease, a token's life, or a grace."""
        match what:
            case "lease":
                self.run(self.leases_end(redeemed=redeemed))
            case "token" if not self.requests:
                self.run(self.token_ends(grant))
            case _ if not self.requests and not any(replica.cut for replica in self.replicas.values()):
                self.run(self.grace_ends())

    # What the store does --------------------------------------------------------------------------------

    @rule(what=st.sampled_from(["copied", "restarts", "goes back", "goes back"]), first=names)
    def store(self, what: str, first: str) -> None:
        """Copy the store; or make it another run, which may have lost all that it acknowledged since."""
        if what == "copied":
            self.run(self.copied())
        else:
            self.run(self.another_run(first, back=what == "goes back" and self.snapshot is not None))

    # What must hold -------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_redeemed_twice(self) -> None:
        """No server has seen a token again whose successor a replica had, or a token twice at once."""
        for server in getattr(self, "servers", {}).values():
            assert not server.faults, server.faults

    @invariant()
    def in_exactly_one_set(self) -> None:
        """Every grant is in one of due, leased and parked of its provider; what is gone is in none."""
        if hasattr(self, "truth"):
            for grant, found in self.run(self.states()).items():
                held = self.run(self.truth.grants.get(grant))
                assert len(found) == (held is not None), f"{grant} is in {found}"

    @invariant()
    def the_index_is_true(self) -> None:
        """Every grant's place in the index of tokens' ends is what its hash says; what is gone has none."""
        if hasattr(self, "truth"):
            assert not (wrong := self.run(self.misplaced())), wrong

    @invariant()
    def what_is_stored_lives(self) -> None:
        """Check that the stored refresh token is the server's live one, unless nobody within reach heard of it."""
        if not hasattr(self, "truth"):
            return
        if wrong := self.run(self.wrong()):
            self.run(self.step())
            wrong = self.run(self.wrong())
        assert not wrong, wrong

    @invariant()
    def generations_rise(self) -> None:
        """Check that a generation falls only with the store, and never means two tokens."""
        for grant in GRANTS if hasattr(self, "truth") else []:
            held = self.run(self.truth.grants.get(grant))
            if held is None:
                continue
            assert held.generation >= self.newest.get(grant, 0)
            self.newest[grant] = held.generation
            if held.token is not None and held.token.access_token:
                token = held.token.access_token.reveal()
                assert self.generations.setdefault((grant, held.generation), token) == token

    def teardown(self) -> None:
        """In the end all replicas are there: all that anybody heard is stored, the rest is named."""
        if not hasattr(self, "truth"):
            return
        try:
            self.run(self.at_the_end())
        finally:
            self.run(self.end_all())
            shutil.rmtree(self.folder)


@pytest.fixture(scope="module")
def ground() -> Iterator[None]:
    """One server and one loop for all examples."""
    folder = Path(tempfile.mkdtemp(prefix="tb-redis-"))
    Machine.server = start_redis(folder)
    with asyncio.Runner() as runner, pytest.MonkeyPatch.context() as patch:
        runner.get_loop().set_task_factory(cast("Any", owned))
        Machine.runner = runner
        patch.setattr(recorder, "_PAUSES", (0.002,))
        patch.setattr(login_recorder, "_PAUSE", 0.002)
        OWNER.set("")
        yield
    Machine.server.kill()
    shutil.rmtree(folder)


@pytest.mark.timeout(0 if _EXAMPLES else 120)
def test_machine(ground: None) -> None:
    """Any sequence of the rules above, and the invariants after each."""
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=_EXAMPLES or 40,
            stateful_step_count=40,
            deadline=None,
            derandomize=not _EXAMPLES,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            phases=[Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
        ),
    )
