"""Judging what came of a fault: the central invariant, the promises to callers and to the provider, and figures."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.chaos.reading import Callers
from tests.chaos.table import Fault
from tests.chaos.world import FOR_NOTHING, World

HTTP_BUSY = 429
_RETRY_AFTER = 2.0
"""Seconds that the table's 429 asks for."""
_KNOWN = 0.4
"""Seconds after a refusal until every replica has heard of it; requests until then were under way."""
_LEAST_PAUSE = 2.5
"""Seconds: the shortest pause between two probes of a suspended provider, jitter included."""


@dataclass(slots=True)
class Row:
    """What came of one fault. *problems* says what broke the invariant."""

    fault: Fault
    replicas: int
    grants: int
    alive: int = 0
    lost: list[str] = field(default_factory=list)
    """Not alive; each must have been unheard of, and is named."""
    named: int = 0
    """Of the lost ones, those that the log, the grant's description and its history say are dead or unknown."""
    unheard: int = 0
    """Grants whose answer may never have reached us."""
    reuse: int = 0
    reads: int = 0
    withheld: Counter[str] = field(default_factory=Counter)
    """Reads that were refused, given what had expired, or blocked for over a second, while a valid token existed."""
    asked: float = 0.0
    """Token requests for each grant, during the fault."""
    rate: float = 0.0
    """The same for each minute."""
    calm: float = 0.0
    """The same without it."""
    inside: int | None = None
    """Token requests inside a `Retry-After`; None: there was none."""
    to_parked: int | None = None
    """Token requests for grants that were parked; None: none was."""
    probes: int | None = None
    """Token requests to a provider that was suspended; None: it was not."""
    fresh_after: float | None = None
    lag: float = 0.0
    notes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    skipped: str = ""
    """Why it could not be run here."""


async def measure(row: Row, here: World, callers: Callers) -> None:
    alive = await here.alive()
    for _ in range(20):  # one that is just being refreshed is stored a moment later
        if len(alive) == len(here.family) - len(here.unheard):
            break
        await asyncio.sleep(0.1)
        alive |= await here.alive()
    unheard, described = here.unheard, await here.described()
    row.alive, row.lost, row.unheard = len(alive), sorted(here.family.keys() - alive), len(unheard)
    row.reuse, row.notes, row.lag = here.authority.reuse, here.notes, here.lags.longest
    row.reads, row.withheld = len(callers.reads), Counter(read.verdict for read in callers.withheld)
    if here.lags.longest > 0.5:
        row.notes["ms late itself"] = round(here.lags.longest * 1000)
    if here.disk_lags.longest > 0.5:
        row.notes["ms the disk was late"] = round(here.disk_lags.longest * 1000)
    if late := here.too_late():
        row.notes["answers that may have been too late by that"] = len(late)
    row.notes |= {f"reads {verdict}": count for verdict, count in callers.counts().items() if verdict != "served"}
    events = here.logged("grant.parked", "grant.postponed", "provider.suspended")
    _judge(row, here, callers, unheard)
    for grant in row.lost:
        problems = _unnamed(grant, described[grant], events)
        row.problems += problems
        row.named += not problems


def _unnamed(grant: str, described: dict[str, Any], events: list[dict[str, Any]]) -> list[str]:
    """Where it does not say that a grant is lost: its description, its history, the log."""
    names = {"unknown", "dead"}
    problems = []
    if (described["last"] or {}).get("outcome") not in names:
        problems.append(f"{grant} is lost, and described as {described['state']}, {described['last']}")
    if not any(line["grant_id"] == grant and line["outcome"] in names for line in events):
        problems.append(f"{grant} is lost, and no log says so")
    return problems


def count(row: Row, here: World, began: float, ended: float) -> None:
    """Token requests while the fault lasted (monotonic), and those that should not have been made."""
    requests = [record for record in list(here.authority.token_requests) if began <= record.monotonic <= ended]
    row.asked = len(requests) / row.grants
    row.rate = row.asked / (ended - began) * 60
    if here.revoked:
        row.to_parked = 0
        for family in here.revoked.values():
            refused = [r for r in requests if r.family == family and r.error == "invalid_grant"]
            row.to_parked += max(0, len(refused) - 1)
    if waits := [r.monotonic for r in requests if r.status == HTTP_BUSY and r.fault == "status"]:
        row.inside = sum(any(_KNOWN < r.monotonic - at < _RETRY_AFTER for at in waits) for r in requests)
    if row.fault.probes_only:
        refusals = [record.monotonic for record in requests if record.fault == "invalid_client"]
        row.probes = sum(at > min(refusals) + _KNOWN for at in refusals)
        if row.probes > (ended - began) / _LEAST_PAUSE + 1:
            row.problems.append(f"{row.probes} token requests to a provider that was suspended")
    if row.inside or row.to_parked:
        row.problems.append(f"{row.inside} requests inside a Retry-After, {row.to_parked} for parked grants")


def _judge(row: Row, here: World, callers: Callers, unheard: set[str]) -> None:
    """Judge the central invariant, and the promises to callers and to the provider."""
    excused = set() if row.fault.terrain.grace else unheard if row.fault.loses else here.grants_of(here.too_late())
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
    if FOR_NOTHING in here.notes:
        row.problems.append(FOR_NOTHING)
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
    never_heard = here.never_heard()
    for number, record in enumerate(list(here.authority.token_requests)):
        if record.token is None:
            continue
        if record.token in answered:
            twice.add(grant_of.get(record.family or "", "?"))
        heard = record.fault is None and record.status is not None and number not in never_heard
        if record.processed and heard and record.error is None:
            answered.add(record.token)
    return sorted(twice)


def _story(here: World, grant: str) -> list[str]:
    """Return the last that the server and the replicas say of a grant, in order of time."""
    story = []
    for record in here.authority.token_requests:
        if record.family == here.family[grant]:
            what = f"asked with {(record.token or '')[:6]}: {record.status} {record.error or record.fault or ''}"
            story.append((record.at, "server", what))
    for replica in here.replicas:
        for line in replica.log:
            if line.get("grant_id") == grant:
                at = datetime.fromisoformat(line["timestamp"]).timestamp()
                names = ("event", "outcome", "code", "settled", "failures", "next_in", "generation", "error", "detail")
                story.append(
                    (at, replica.name, " ".join(str(line[name]) for name in names if line.get(name) is not None))
                )
    return [f"{grant} {at % 1000:7.3f} {who}: {what}" for at, who, what in sorted(story)[-14:]]
