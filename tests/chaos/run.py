"""Running one fault."""

from __future__ import annotations

import asyncio
import inspect
import time
from dataclasses import replace
from typing import Any

from tests.chaos.acts import Act
from tests.chaos.judging import Row, count, measure
from tests.chaos.reading import Callers, reading
from tests.chaos.table import Fault
from tests.chaos.world import Plan, World, world

_FRESH_EVERY = 0.2


def usual_rate(plan: Plan) -> float:
    """Token requests for each grant and minute where nothing is wrong: one for each window of a life."""
    return 60 / (plan.life * (0.70 + 0.85) / 2)


async def run(fault: Fault, plan: Plan, calm: float | None = None) -> Row:
    """Run *fault* as *plan* says; *calm* is the rate of requests without it, as far as it was measured."""
    terrain = replace(fault.terrain, name=fault.title, replicas=max(fault.terrain.replicas, plan.replicas))
    async with world(plan, terrain) as here:
        row = Row(fault, terrain.replicas, plan.grants, calm=calm or usual_rate(plan))
        for option, value in fault.options.items():
            setattr(here.authority.options, option, value)
        async with reading(here, apart=fault.apart) as callers:
            began = time.monotonic()
            await _suffer(fault, here, callers)
            count(row, here, began, time.monotonic())
            row.fresh_after = await _wait_until_fresh(here)
        await measure(row, here, callers)
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


async def _wait_until_fresh(here: World) -> float | None:
    """Seconds until every grant is fresh again, or known to be lost; None where that never came."""
    began = time.monotonic()
    while time.monotonic() < began + here.plan.patience:
        rows = await here.described()
        unheard = here.unheard
        if len(rows) == len(here.family) and all(
            _is_fresh(row) or (grant in unheard and _is_named_dead(row)) for grant, row in rows.items()
        ):
            return time.monotonic() - began
        await asyncio.sleep(_FRESH_EVERY)
    return None


def _is_fresh(row: dict[str, Any]) -> bool:
    now = time.time()
    fresh = row["failures"] == 0 and row["expires_at"] is not None and row["expires_at"] > now
    return bool(fresh and row["state"] in {"due", "leased"} and row["refresh_at"] + 1.5 > now)


def _is_named_dead(row: dict[str, Any]) -> bool:
    return row["reason"] == "reauthorization_required" or (row["last"] or {}).get("outcome") == "dead"
