"""Every script names its KEYS and ARGV once, in its header, and neither Lua nor Python counts positions after that."""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest

from broker.model import Ending, Park, Postpone, Token
from broker.secret import Secret
from broker.store import Flow, scripts
from broker.store.index_walk import examine
from broker.store.moving import Ends, Move
from tests.store.steps import LEASE, brought_by, commit_of, imported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.model import Claim
    from broker.store import Store


LUA = resources.files("broker.store").joinpath("lua")
SCRIPTS = [script for script in vars(scripts).values() if isinstance(script, scripts.Script)]
TEXTS = {script.verb: LUA.joinpath(f"{script.verb}.lua").read_text("utf-8") for script in SCRIPTS}
HEADER = re.compile(
    r"#!lua(?: flags=allow-oom)?\n-- (?P<verb>\w+): .+\n(?:-- .+\n)*--\n"
    r"(?P<keys>(?:-- KEYS: .+\n)+)(?P<args>(?:-- ARGV: .+\n)+)(?P<meanings>(?:--   .+\n)*)"
    r"-- Returns: .+\n(?:--   .+\n)*"
)


def locals_of(opening: str, kind: str) -> tuple[list[str], str]:
    """Return the names that a script's first lines give to the items of KEYS or ARGV, and to all items behind them."""
    named, rest = [], ""
    if found := re.search(rf"local ([\w,\s]+) = unpack\({kind}\)", opening):
        named = re.split(r",\s*", found[1])
    if found := re.search(rf"local (\w+) = \{{unpack\({kind}, (\d+)\)\}}", opening):
        assert int(found[2]) == len(named) + 1, "the rest begins behind the last name"
        rest = found[1]
    elif found := re.search(rf"local (\w+) = {kind}\n", opening):
        rest = found[1]
    return named, rest


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.verb)
def test_a_script_names_what_it_takes(script: scripts.Script) -> None:
    """A script's first lines name every item of its header, each is used, and KEYS and ARGV occur nowhere else."""
    text = TEXTS[script.verb]
    header = HEADER.match(text)
    assert header, "the header has another form than the others"
    assert header["verb"] == script.verb
    opening, _, body = text[header.end() :].partition("\n\n")
    for kind, order in (("KEYS", script.key_order), ("ARGV", script.arg_order)):
        assert locals_of(opening + "\n", kind) == (list(order.names), order.rest)
        assert not re.search(rf"\b{kind}\b", body)
        for name in (*order.names, *filter(None, [order.rest])):
            assert re.search(rf"\b{name}\b", body), f"{name} is not used"
    names = [*script.key_order.names, script.key_order.rest, *script.arg_order.names, script.arg_order.rest]
    explained = re.findall(r"^--   (\w+(?:, \w+)*): ", header["meanings"], re.MULTILINE)
    assert {name for group in explained for name in group.split(", ")} <= set(names)
    assert len([*filter(None, names)]) == len({*filter(None, names)}), "keys and arguments share one scope"


def test_every_file_is_a_script() -> None:
    """No file lies in the folder that nothing runs."""
    assert {path.name for path in LUA.iterdir()} == {f"{verb}.lua" for verb in TEXTS} | {"prelude.lua"}


def test_what_the_header_does_not_name_is_refused() -> None:
    """A missing or unknown name, and an item that no name stands for, are errors before anything is sent."""
    assert scripts.HOLD.args(lease_ms=3, provider="p", grant_id="g") == ("g", "p", 3)
    assert scripts.NEEDING_ATTENTION.args(["g1", "g2"], ends_by=2, failures=1) == (1, 2, "g1", "g2")
    assert scripts.RESUME.args() == ()
    for wrong in ({"grant_id": "g"}, {"grant_id": "g", "providr": "p"}, {"grant_id": "g", "provider": "p", "more": 1}):
        with pytest.raises(TypeError, match=r"takes \('grant_id', 'provider'\)"):
            scripts.RETRY.args(**wrong)
    with pytest.raises(TypeError, match="no more"):
        scripts.RETRY.args(["more"], grant_id="g", provider="p")


class Calls:
    """Runs scripts on the real server, and keeps what each was given."""

    def __init__(self, store: Store, patch: pytest.MonkeyPatch) -> None:
        self.seen: set[scripts.Script] = set()
        run, each, durably = store.primary.run, store.primary.run_each, store.primary.run_durably

        async def recorded(script: scripts.Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
            self._check(script, keys, args)
            return await run(script, keys, args)

        async def recorded_each(script: scripts.Script, calls: Any) -> Any:
            for keys, args in calls:
                self._check(script, keys, args)
            return await each(script, calls)

        async def recorded_durably(script: scripts.Script, calls: Any, *, replicas: int) -> Any:
            for keys, args in calls:
                self._check(script, keys, args)
            return await durably(script, calls, replicas=replicas)

        patch.setattr(store.primary, "run", recorded)
        patch.setattr(store.primary, "run_each", recorded_each)
        patch.setattr(store.primary, "run_durably", recorded_durably)

    def _check(self, script: scripts.Script, keys: Sequence[str], args: Sequence[Any]) -> None:
        self.seen.add(script)
        for order, given in ((script.key_order, keys), (script.arg_order, args)):
            assert len(given) > len(order.names) if order.rest else len(given) == len(order.names)


async def test_python_sends_what_each_header_names(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every place in the store that runs a script is run once: what it sends is as long as the header says."""
    calls = Calls(store, monkeypatch)
    await imported(store, "kept", "late", "refused", "gone")
    taken = {claim.grant_id: claim for claim in (await brought_by(store, 4)).claims}
    await write_down(store, taken)
    grant = await store.grants.get("kept")
    assert grant is not None
    await store.schedule.expedite(grant, interval_ms=0, generation=grant.generation, budget=1)
    await store.schedule.retry("refused", "p")
    await store.schedule.hold("late", "p", LEASE)
    await store.schedule.abandon("another-life", ["p"])
    await store.clock_steps.rewind("p", LEASE)
    await store.schedule.resume("p")
    await store.lost.find("p", "due", 0)
    assert not await store.lost.drop("kept")
    store.schedule._lost_claims["p"] = ["a-claim"]
    await store.schedule.claim("p", 1, LEASE, expired_after=0)
    await log_in_and_out(store)
    await store.urgency.summary(["p"])
    await store.urgency.rows(["p"], None, 1)
    await examine(store, ["p"], None)
    await notify_and_reseal(store)
    await begin_to_move(store)
    assert set(SCRIPTS) - calls.seen == set()


async def write_down(store: Store, taken: dict[str, Claim]) -> None:
    """Commit, postpone and park a claim each, and restore one from its record."""
    record = store.registry.prepare(commit_of(taken["gone"])).record
    await store.schedule.commit(store.registry.prepare(commit_of(taken["kept"])), [{}])
    late = Postpone(taken["late"], "busy", "http_503", "", due_at=store.clock(), failures=1, lane="ailing")
    await store.schedule.postpone(late, {})
    await store.schedule.park(Park(taken["refused"], "dead", "invalid_grant", "gone", "refresh_failing"), {})
    await store.registry.restore(record)


async def log_in_and_out(store: Store) -> None:
    """Register a login, forget the grant, and keep the login's flow meanwhile."""
    flow = Flow("ticket", "new", "p", "ticket")
    await store.flows.put("ticket", flow)
    await store.flows.update("ticket", flow)
    now = store.clock()
    token = Token("new", "p", now, Secret("a"), "Bearer", None, now, now, now, now, {})
    login = store.registry.prepare_login(token, Secret("r"), ending=Ending(), followed=0)
    await store.registry.log_in(login, seen=None, message={})
    assert await store.registry.annotate("new", "jane", None)
    await store.registry.forget("new", {})


async def notify_and_reseal(store: Store) -> None:
    """Run what reads over many grants, and what notices and the history are kept by."""
    await store.history.add({("p", store.clock() // 60_000): (1, 0)})
    await store.day.add({("p", store.clock() // 60_000): (1, 0)})
    await store.grants.needing_attention([f"p{n}" for n in range(10)], None, 10, failures=1, ends_by=0)
    await store.grants.needing_attention(["p"], None, 10, failures=1, ends_by=0)
    await store.grants.providers(["p"])
    await store.grants.suspended(["p"])
    await store.schedule.find_due(["p"], 1000)
    await store.notices.enqueue("webhook", ["grant/kept"])
    [leased] = await store.notices.lease("webhook", 1, LEASE)
    await store.notices.finish("webhook", leased, "", None)
    await store.resealing.on_disk()
    await store.resealing.begin()


async def begin_to_move(store: Store) -> None:
    """Run what a move runs, with one store at both ends."""
    one = Move(Ends(store.primary, store.primary, "here", "here"), store.keys)
    await one._drain(0)
    await one._hold_back(await one._marks(store.primary))
    await one._copy_from("0", "this run")
