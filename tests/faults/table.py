"""The table: every fault, how it starts, what happens while it lasts, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from broker.store import scripts
from tests.faults.reading import Callers
from tests.faults.world import Plan, World
from tests.waiting import until

Act = Callable[[World, Callers], Awaitable[Any] | None]


def _nothing(_world: World, _callers: Callers) -> None:
    """Do nothing."""


def _clear(world: World, _callers: Callers) -> None:
    world.authority.faults.clear()


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table. *start*, then *step* again and again, then *end*."""

    name: str
    start: Act = _nothing
    end: Act = _clear
    step: Act = _nothing
    period: float = 1.0
    """Seconds for one step, which comes at random in the first half of them."""
    share: float | None = None
    """Instead of a period: steps as a share of the grants."""
    grace: bool = False
    """Whether the server yields a spent token's successor again for a while, and the broker knows."""
    replicas: int = 1
    proxied: bool = False
    apart: bool = False
    """Replicas cannot hear of one another meanwhile."""
    loses: bool = False
    """Whether answers may get lost after the server has rotated: on a strict server those grants are lost."""
    at_most: float = 1.5
    """Token requests as a multiple of those without the fault."""
    options: dict[str, float] = field(default_factory=dict)
    """How the server behaves meanwhile."""

    def times(self, plan: Plan) -> int:
        """How many steps there are."""
        return max(1, round(plan.duration / self.period if self.share is None else plan.grants * self.share))

    @property
    def title(self) -> str:
        return f"{self.name}, grace" if self.grace else self.name


def _order(kind: str, times: int | None = None, **details: Any) -> Act:
    def start(world: World, _callers: Callers) -> None:
        world.authority.faults.order(kind, times, **details)
        world.note(kind)

    return start


async def _refuse(world: World, _callers: Callers) -> None:
    await world.sandbox.stop_listening()


async def _listen(world: World, _callers: Callers) -> None:
    await world.sandbox.start_listening()


async def _kill(world: World, _callers: Callers) -> None:
    """A replica dies with a request in flight and is started again a little later."""
    victim = world.running
    await world.in_flight()
    world.kills.append(_now())
    await victim.kill()
    world.note("SIGKILL")
    await asyncio.sleep(world.rng.uniform(0, 0.5))
    await victim.start()


async def _terminate(world: World, _callers: Callers) -> None:
    """A replica is told to stop with a request in flight: it sees it to its end."""
    victim = world.running
    await world.in_flight()
    await victim.terminate()
    world.note("SIGTERM")
    await asyncio.sleep(world.rng.uniform(0, 0.5))
    await victim.start()


async def _kill_store(world: World, _callers: Callers) -> None:
    await world.in_flight()
    world.store.kill()
    world.note("store SIGKILL")
    await asyncio.sleep(world.rng.uniform(0.2, 2))
    world.store.start()


async def _freeze_store(world: World, _callers: Callers) -> None:
    await world.in_flight()
    world.store.freeze()
    world.note("store SIGSTOP")
    await asyncio.sleep(world.rng.uniform(1, 4))
    world.store.thaw()


async def _rewind_store(world: World, _callers: Callers) -> None:
    """The store forgets some seconds of what it had acknowledged."""
    world.store.remember()
    await asyncio.sleep(world.rng.uniform(2, 3))
    await world.in_flight()
    world.store.go_back()
    world.note("store went back")


async def _kill_both(world: World, _callers: Callers) -> None:
    """The store goes while requests are in flight; their answers arrive; then a replica dies with them on its disk."""
    victim = world.running
    await world.in_flight()
    world.store.kill()
    await asyncio.sleep(world.authority.options.latency + 0.6)
    await victim.kill()
    world.note("store and replica SIGKILL")
    world.store.start()
    await victim.start()


def _lose_reply(script: scripts.Script) -> Act:
    async def step(world: World, _callers: Callers) -> None:
        if script is scripts.POSTPONE:
            world.authority.faults.order("status", 1, status=503)
        if script is scripts.PARK:
            world.authority.faults.order("status", 1, status=400, body={"error": "invalid_grant"})
        dropped = {proxy: proxy.dropped for proxy in world.proxies}
        for proxy in world.proxies:
            proxy.drop_reply(script)
        await until(lambda: any(proxy.dropped > dropped[proxy] for proxy in world.proxies), 30)
        for proxy in world.proxies:
            proxy.drop_reply(script, 0)
        world.note(f"reply of {script.verb} dropped")
        if script is scripts.PARK:
            await _take_up(world)

    return step


async def _take_up(world: World) -> None:
    """An operator takes up what was parked."""

    async def parked() -> list[str]:
        return [grant for grant, row in (await world.described()).items() if row["state"] == "parked"]

    for grant in await until(parked, 10):
        await world.running.process.ask("POST", f"/v1/grants/{grant}/retry")


async def _demand(world: World, callers: Callers) -> None:
    """Somebody got a 401, or wants more life, and tells one replica or both at once."""
    grant = world.rng.choice(sorted(world.family))
    known = callers.known(grant)
    if world.rng.random() < 0.3:
        await callers.read(world.running, grant, 2, f"?min_ttl={world.rng.randint(1, 3)}")
        world.note("min_ttl")
        return
    if known is None:
        return
    headers = {"If-Match": f'"{known.generation}"', "Prefer": "wait=2"}
    asked = [replica for replica in world.replicas if replica.up and world.rng.random() < 0.7]
    answers = await asyncio.gather(
        *(r.process.ask("POST", f"/v1/grants/{grant}/refresh", headers=headers) for r in asked),
        return_exceptions=True,
    )
    for answer in answers:
        world.note(f"forced {answer[0]}" if isinstance(answer, tuple) else "forced, cut")
        assert isinstance(answer, (tuple, aiohttp.ClientError, OSError)), answer


def _now() -> float:
    return asyncio.get_running_loop().time()


CALM = Fault("nothing at all", at_most=1.25)

_BEFORE = [
    Fault("503", _order("status", status=503)),
    Fault("429, Retry-After: 2", _order("status", status=429, headers={"Retry-After": "2"})),
    Fault("refused", _refuse, _listen),
    Fault("closed unread", _order("refuse")),
    Fault("reset before", _order("reset")),
    Fault("hang before", _order("hang")),
    Fault("invalid_client, healed", _order("invalid_client")),
]
_LOST_ANSWERS = [
    Fault(f"{name} after", step=order, loses=True, share=0.25)
    for name, order in (
        ("500", _order("status_after", 1, status=500)),
        ("reset", _order("reset", 1, after_rotation=True)),
        ("hang", _order("hang", 1, after_rotation=True)),
        ("truncate", _order("truncate", 1)),
    )
]
_DEATHS = [
    Fault("replica SIGKILL", step=_kill, period=3, replicas=2, apart=True, loses=True,
          options={"latency": 0.3}),
]  # fmt: skip
_OF_THE_STORE = [
    Fault("store SIGKILL", step=_kill_store, period=15, replicas=2, apart=True),
    Fault("store SIGSTOP", step=_freeze_store, period=5, replicas=2, apart=True),
    Fault("store goes back", step=_rewind_store, period=15, replicas=2, apart=True),
    Fault("store, then replica SIGKILL", step=_kill_both, period=15, replicas=2, apart=True),
]
_REPLIES = [
    Fault(f"{script.verb}'s reply dropped", step=_lose_reply(script), period=2, replicas=2, proxied=True)
    for script in (scripts.CLAIM, scripts.COMMIT, scripts.POSTPONE, scripts.PARK)
]

FAULTS: tuple[Fault, ...] = (
    CALM,
    *_BEFORE,
    *(fault for lost in _LOST_ANSWERS for fault in (lost, replace(lost, grace=True, share=0.6))),
    *(fault for death in _DEATHS for fault in (death, replace(death, grace=True))),
    Fault("replica SIGTERM", step=_terminate, period=3, replicas=2, apart=True,
          options={"latency": 0.3}),
    *_OF_THE_STORE,
    *_REPLIES,
    Fault("two replicas, forced refreshes", step=_demand, period=0.15, replicas=2, at_most=6),
)  # fmt: skip
