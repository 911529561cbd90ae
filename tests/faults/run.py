"""Running one fault, and judging what came of it."""

from __future__ import annotations

import asyncio
import inspect
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.faults.reading import Callers, reading
from tests.faults.table import Act, Fault
from tests.faults.world import Plan, World, world

_SETTLED_EVERY = 0.2


@dataclass(slots=True)
class Row:
    """What came of one fault. *problems* says what broke the invariant."""

    fault: Fault
    replicas: int
    grants: int
    alive: int = 0
    lost: list[str] = field(default_factory=list)
    """Not alive; each must have been unheard of, and is named."""
    unheard: int = 0
    """Grants whose answer may never have reached us."""
    reuse: int = 0
    reads: int = 0
    withheld: int = 0
    rate: float = 0.0
    """Token requests for each grant and minute, during the fault."""
    calm: float = 0.0
    """The same without it."""
    fresh_after: float | None = None
    lag: float = 0.0
    notes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def usual_rate(plan: Plan) -> float:
    """Token requests for each grant and minute where nothing is wrong: one for each window of a life."""
    return 60 / (plan.life * (0.70 + 0.85) / 2)


async def run(fault: Fault, plan: Plan, calm: float | None = None) -> Row:
    """Run *fault* as *plan* says; *calm* is the rate of requests without it, as far as it was measured."""
    replicas = max(fault.replicas, plan.replicas)
    async with world(plan, fault.title, grace=fault.grace, replicas=replicas, proxied=fault.proxied) as here:
        row = Row(fault, replicas, plan.grants, calm=calm or usual_rate(plan))
        for option, value in fault.options.items():
            setattr(here.authority.options, option, value)
        async with reading(here, apart=fault.apart) as callers:
            began = time.monotonic()
            await _suffer(fault, here, callers)
            minutes = (time.monotonic() - began) / 60
            requests = [r for r in here.authority.token_requests if r.monotonic >= began]
            row.rate = len(requests) / plan.grants / minutes
            row.fresh_after = await _settle(here)
        await _measure(row, here, callers)
        return row


async def _suffer(fault: Fault, here: World, callers: Callers) -> None:
    began = time.monotonic()
    times = fault.times(here.plan)
    await _act(fault.start, here, callers)
    for number in range(times):
        at = began + here.plan.duration / times * (number + here.rng.uniform(0, 0.5))
        await asyncio.sleep(max(0, at - time.monotonic()))
        await _act(fault.step, here, callers)
    await asyncio.sleep(max(0, began + here.plan.duration - time.monotonic()))
    await _act(fault.end, here, callers)


async def _act(act: Act, here: World, callers: Callers) -> None:
    done = act(here, callers)
    if inspect.isawaitable(done):
        await done


async def _settle(here: World) -> float | None:
    """Seconds until every grant is fresh again, or known to be lost; None where that never came."""
    began = time.monotonic()
    while time.monotonic() < began + here.plan.patience:
        rows = await here.described()
        unheard = here.unheard
        if len(rows) == len(here.family) and all(
            _is_fresh(row) or (grant in unheard and _is_named_dead(row)) for grant, row in rows.items()
        ):
            return time.monotonic() - began
        await asyncio.sleep(_SETTLED_EVERY)
    return None


def _is_fresh(row: dict[str, Any]) -> bool:
    now = time.time()
    fresh = row["attempts"] == 0 and row["expires_at"] is not None and row["expires_at"] > now
    return bool(fresh and row["state"] in {"due", "leased"} and row["refresh_at"] + 1.5 > now)


def _is_named_dead(row: dict[str, Any]) -> bool:
    return row["reason"] == "reauthorization_required" or (row["last"] or {}).get("outcome") == "dead"


async def _measure(row: Row, here: World, callers: Callers) -> None:
    alive = await here.alive()
    for _ in range(20):  # one that is just being refreshed is stored a moment later
        if len(alive) == len(here.family) - len(here.unheard):
            break
        await asyncio.sleep(0.1)
        alive |= await here.alive()
    unheard, described = here.unheard, await here.described()
    row.alive, row.lost, row.unheard = len(alive), sorted(here.family.keys() - alive), len(unheard)
    row.reuse, row.notes, row.lag = here.authority.reuse, here.notes, callers.lag
    row.reads, row.withheld = len(callers.reads), len(callers.withheld)
    if callers.lag > 0.5:
        row.notes["ms late itself"] = round(callers.lag * 1000)
    row.notes |= {f"reads {verdict}": count for verdict, count in callers.counts().items() if verdict != "served"}
    told = here.logged("grant.parked", "grant.postponed", "provider.suspended")
    _judge(row, here, callers, unheard)
    for grant in row.lost:
        last = described[grant]["last"] or {}
        if last.get("outcome") not in {"unknown", "dead"}:
            row.problems.append(f"{grant} is lost, and described as {described[grant]['state']}, {last}")
        if not any(line["grant_id"] == grant and line["outcome"] in {"unknown", "dead"} for line in told):
            row.problems.append(f"{grant} is lost, and no log says so")


def _judge(row: Row, here: World, callers: Callers, unheard: set[str]) -> None:
    """The central invariant, and the promises to callers and to the provider."""
    excused = set() if row.fault.grace or not row.fault.loses else unheard
    if lost := [grant for grant in row.lost if grant not in excused]:
        row.problems.append(f"lost although their answers reached us: {', '.join(lost)}")
        row.problems += [line for grant in lost[:2] for line in _story(here, grant)]
    grant_of = {family: grant for grant, family in here.family.items()}
    refused = {
        grant_of.get(record.family or "", "?")
        for record in here.authority.token_requests
        if record.processed and record.error == "invalid_grant"
    }
    if row.reuse and refused - excused:
        row.problems.append(f"{row.reuse} times reused: {', '.join(sorted(refused - excused))}")
    if twice := _redeemed_twice(here):
        row.problems.append(f"redeemed again after an answer was heard: {', '.join(twice)}")
    for read in callers.withheld[:5]:
        row.problems.append(
            f"{read.grant} {read.verdict} at {read.replica}: {read.status} after {read.took:.2f} s, "
            f"{read.at - callers.reads[0].at:.1f} s into the run"
        )
    if row.fresh_after is None:
        row.problems.append(f"not all fresh {here.plan.patience:.0f} s after the fault")
    if row.rate > row.calm * row.fault.at_most + 2:
        row.problems.append(f"{row.rate:.1f} token requests for each grant and minute, {row.calm:.1f} without")


def _redeemed_twice(here: World) -> list[str]:
    """Grants whose refresh token was presented again after a request with it was answered, grace or not."""
    answered: set[str] = set()
    twice = set()
    grant_of = {family: grant for grant, family in here.family.items()}
    for record in here.authority.token_requests:
        if record.token is None:
            continue
        if record.token in answered:
            twice.add(grant_of.get(record.family or "", "?"))
        heard = record.fault is None and record.status is not None and not here.answered_late(record)
        if record.processed and heard and record.error is None:
            answered.add(record.token)
    return sorted(twice)


def _story(here: World, grant: str) -> list[str]:
    """The last that the server and the replicas say of a grant, in order of time."""
    told = []
    for record in here.authority.token_requests:
        if record.family == here.family[grant]:
            what = f"asked with {(record.token or '')[:6]}: {record.status} {record.error or record.fault or ''}"
            told.append((record.at, "server", what))
    for replica in here.replicas:
        for line in replica.log:
            if line.get("grant_id") == grant:
                at = datetime.fromisoformat(line["timestamp"]).timestamp()
                names = ("event", "outcome", "code", "settled", "failures", "next_in", "generation", "error", "detail")
                told.append(
                    (at, replica.name, " ".join(str(line[name]) for name in names if line.get(name) is not None))
                )
    return [f"{grant} {at % 1000:7.3f} {who}: {what}" for at, who, what in sorted(told)[-14:]]
