"""What is done to a world: how a fault starts, goes on, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from broker.store import scripts
from tests.chaos.reading import Callers
from tests.chaos.stores import FailingOver
from tests.chaos.world import FAILOVER, FOR_NOTHING, PROVIDER, World
from tests.waiting import until

Act = Callable[[World, Callers], Awaitable[Any] | None]


def nothing(_world: World, _callers: Callers) -> None:
    """Do nothing."""


def clear(world: World, _callers: Callers) -> None:
    world.authority.faults.clear()


def order(kind: str, times: int | None = None, **details: Any) -> Act:
    def start(world: World, _callers: Callers) -> None:
        world.authority.faults.order(kind, times, **details)
        world.note(kind)

    return start


async def refuse(world: World, _callers: Callers) -> None:
    await world.sandbox.stop_listening()


async def listen(world: World, _callers: Callers) -> None:
    await world.sandbox.start_listening()


async def kill(world: World, _callers: Callers) -> None:
    """Kill a replica with a request in flight and start it again a little later."""
    victim = world.running
    await world.in_flight()
    await world.kill(victim)
    world.note("SIGKILL")
    await asyncio.sleep(world.rng.uniform(0, 0.5))
    await victim.start()


async def kill_unread(world: World, _callers: Callers) -> None:
    """Kill a replica whose last requests lie unread at the server, which processes them after that."""
    victim = world.running
    await world.refreshing()
    time.sleep(0.4)  # noqa: ASYNC251 - the server in this process must be late
    await world.kill(victim)
    world.note("SIGKILL")
    await victim.start()


async def terminate(world: World, _callers: Callers) -> None:
    """Stop a replica by SIGTERM with a request in flight: it finishes it."""
    victim = world.running
    await world.in_flight()
    await victim.terminate()
    world.note("SIGTERM")
    await asyncio.sleep(world.rng.uniform(0, 0.5))
    await victim.start()


async def kill_store(world: World, _callers: Callers) -> None:
    await world.in_flight()
    world.server.kill()
    world.note("store SIGKILL")
    await asyncio.sleep(world.rng.uniform(0.2, 2))
    world.server.start()


async def freeze_store(world: World, _callers: Callers) -> None:
    await world.in_flight()
    world.server.freeze()
    world.note("store SIGSTOP")
    await asyncio.sleep(world.rng.uniform(1, 4))
    world.server.thaw()


async def rewind_store(world: World, _callers: Callers) -> None:
    """Set the store back by some seconds of what it had acknowledged."""
    world.server.remember()
    await asyncio.sleep(world.rng.uniform(2, 3))
    await world.in_flight()
    world.server.go_back()
    world.note("store went back")


async def kill_both(world: World, _callers: Callers) -> None:
    """Kill the store while requests are in flight, then, once answered, the replica with the answers on its disk."""
    victim = world.running
    await world.in_flight()
    world.server.kill()
    await asyncio.sleep(world.authority.options.latency + 0.6)
    await world.kill(victim)
    world.note("store and replica SIGKILL")
    world.server.start()
    await victim.start()


def lose_reply(script: scripts.Script) -> Act:
    async def step(world: World, _callers: Callers) -> None:
        if script is scripts.POSTPONE:
            world.authority.faults.order("status", 1, status=503)
        if script is scripts.PARK:
            world.authority.faults.order("status", 1, status=400, body={"error": "invalid_grant"})
        dropped = {proxy: proxy.dropped for proxy in world.proxies}
        for proxy in world.proxies:
            proxy.drop_reply(script)
        await until(lambda: any(proxy.dropped > dropped[proxy] for proxy in world.proxies), 60)
        for proxy in world.proxies:
            proxy.drop_reply(script, 0)
        world.note(f"reply of {script.verb} dropped")
        if script is scripts.PARK:
            await take_up(world)

    return step


async def take_up(world: World) -> None:
    """Retry what was parked, as an operator does."""

    async def parked() -> list[str]:
        return [grant for grant, row in (await world.described()).items() if row["state"] == "parked"]

    for grant in await until(parked, 30):
        await world.running.process.ask("POST", f"/v1/grants/{grant}/retry")


async def demand(world: World, callers: Callers) -> None:
    """Somebody got a 401, or wants more life, and tells one replica or both at once."""
    grant = world.rng.choice(sorted(world.family))
    known = callers.known(grant)
    if world.rng.random() < 0.3:
        await callers.read(world.running, grant, 2, min_ttl=world.rng.randint(1, 3))
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


async def fail_over(world: World, _callers: Callers) -> None:
    """Kill the primary, and with it what it acknowledged last."""
    store = world.store
    assert isinstance(store, FailingOver)

    async def while_cut() -> None:
        await asyncio.sleep(world.rng.uniform(0.4, 1))
        # No longer: a replica that was cut off for ten times what Sentinels wait for a primary is never promoted.
        with contextlib.suppress(AssertionError):
            await until(store.unheard, 5)
        await world.in_flight()

    lost = None
    for _ in range(3):
        await world.refreshing()  # all held off since the last one, and then refreshed together: nothing would be lost
        lost = await store.fail_over(while_cut)
        if lost is not None:
            break
        world.note("primary given up by itself")
    world.note("grants of which a commit was lost", lost or 0)
    world.note(FAILOVER if lost else FOR_NOTHING)


async def demand_through_failover(world: World, callers: Callers) -> None:
    """Fail over while callers go on reporting 401s and wanting more life, at one replica or at several at once."""
    over = asyncio.create_task(fail_over(world, callers))
    try:
        while not over.done():
            await demand(world, callers)
            await asyncio.sleep(0.1)
    finally:
        await over


async def fill_journals(world: World, _callers: Callers) -> None:
    """No replica has room for its journal, for a while."""
    disks = [replica.disk for replica in world.replicas if replica.disk is not None]
    await world.in_flight()
    for disk in disks:
        await asyncio.to_thread(disk.fill)
    world.note("disks full")
    await asyncio.sleep(world.rng.uniform(1, 4))
    for disk in disks:
        disk.make_room()


async def fill_store(world: World, _callers: Callers) -> None:
    """Leave the store no room: it ends, or refuses writes; then make room and start it again."""
    disk = world.server.disk
    assert disk is not None
    await world.in_flight()
    await asyncio.to_thread(disk.fill)
    await asyncio.sleep(world.rng.uniform(1, 4))
    world.note("store full, ended" if world.server.ended else "store full")
    disk.make_room()
    world.server.start()


async def set_clock(world: World, _callers: Callers) -> None:
    """Step a replica's wall clock by an hour, back or forth."""
    clock = world.replicas[-1].clock
    assert clock is not None
    clock.set(world.rng.choice([ahead for ahead in (-3600.0, 0.0, 3600.0) if ahead != clock.ahead]))
    world.note("clock set")


def right_clock(world: World, _callers: Callers) -> None:
    """Set that replica's wall clock right."""
    clock = world.replicas[-1].clock
    assert clock is not None
    clock.set(0)


def revoke_three(world: World, _callers: Callers) -> None:
    """Three users take back what they had allowed; what their callers do shows nothing to the server."""
    for grant in world.rng.sample(sorted(world.family), 3):
        live = next(view.refresh_token for view in world.authority.families if view.id == world.family[grant])
        world.authority.revoke_family(live or "")
        world.revoked[grant] = world.family[grant]
        world.note("revoked")


async def import_anew(world: World, _callers: Callers) -> None:
    """They allow it anew."""
    for grant in world.revoked:
        issued = world.authority.issue()
        world.family[grant] = issued.family
        body = {"provider": PROVIDER, "refresh_token": issued.refresh_token}
        status, answer, _ = await world.running.process.ask("PUT", f"/v1/grants/{grant}", json=body)
        assert status == 200, answer
