"""The table: every fault, how it starts, what happens while it lasts, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from broker.store import scripts
from tests.chaos import acts
from tests.chaos.acts import Act
from tests.chaos.world import Plan, Terrain

_ALONE = Terrain()
_TWO = Terrain(replicas=2)


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table. *start*, then *step* again and again, then *end*."""

    name: str
    start: Act = acts.nothing
    end: Act = acts.clear
    step: Act = acts.nothing
    period: float = 1.0
    """Seconds for one step, which comes at random in the first half of them."""
    share: float | None = None
    """Instead of a period: steps as a share of the grants."""
    whole: int | None = None
    """Instead of either: steps where the table is run whole."""
    terrain: Terrain = _ALONE
    apart: bool = False
    """Replicas cannot hear of one another meanwhile."""
    loses: bool = False
    """Whether answers may get lost after the server has rotated: on a strict server those grants are lost."""
    at_most: float = 1.5
    """Token requests as a multiple of those without the fault."""
    probes_only: bool = False
    """Once the server has refused us, only one request at a time, ever more rarely."""
    options: dict[str, float] = field(default_factory=dict)
    """How the server behaves meanwhile."""
    bounded: bool = True
    """Whether it is part of the bounded form too."""

    def times(self, plan: Plan) -> int:
        """How many steps there are."""
        if self.whole is not None and plan.duration > Plan().duration:
            return self.whole
        return max(1, round(plan.duration / self.period if self.share is None else plan.grants * self.share))

    @property
    def title(self) -> str:
        return f"{self.name}, grace" if self.terrain.grace else self.name


def _with_grace(fault: Fault, **changes: float) -> tuple[Fault, Fault]:
    """Return a fault on a strict server, and on one that forgives for a while."""
    return fault, replace(fault, terrain=replace(fault.terrain, grace=True), **changes)  # type: ignore[arg-type]


CALM = Fault("nothing at all", at_most=1.25)

_BEFORE = [
    Fault("503", acts.order("status", status=503)),
    Fault("429, Retry-After: 2", acts.order("status", status=429, headers={"Retry-After": "2"})),
    Fault("refused", acts.refuse, acts.listen),
    Fault("closed unread", acts.order("refuse")),
    Fault("reset before", acts.order("reset")),
    Fault("hang before", acts.order("hang")),
    Fault("invalid_client, healed", acts.order("invalid_client"), probes_only=True),
    Fault("three revoked, imported anew", acts.revoke_three, acts.import_anew),
]
_LOST_ANSWERS = [
    Fault(f"{name} after", step=order, loses=True, share=0.25)
    for name, order in (
        ("500", acts.order("status_after", 1, status=500)),
        ("reset", acts.order("reset", 1, after_rotation=True)),
        ("hang", acts.order("hang", 1, after_rotation=True)),
        ("truncate", acts.order("truncate", 1)),
    )
]
_SLOW = {"latency": 0.3}
_DEATHS = [
    *_with_grace(
        Fault(
            "replica SIGKILL", step=acts.kill, period=3, whole=50, terrain=_TWO, apart=True, loses=True, options=_SLOW
        )
    ),
    Fault(
        "replica SIGKILL, requests unread",
        step=acts.kill_unread,
        period=3,
        whole=5,
        terrain=_TWO,
        apart=True,
        loses=True,
        options=_SLOW,
    ),
    Fault("replica SIGTERM", step=acts.terminate, period=3, whole=50, terrain=_TWO, apart=True, options=_SLOW),
]
_OF_THE_STORE = [
    Fault("store SIGKILL", step=acts.kill_store, period=15, terrain=_TWO, apart=True),
    Fault("store SIGSTOP", step=acts.freeze_store, period=5, terrain=_TWO, apart=True),
    Fault("store goes back", step=acts.rewind_store, period=15, terrain=_TWO, apart=True),
    Fault("store, then replica SIGKILL", step=acts.kill_both, period=15, terrain=_TWO, apart=True),
    Fault(
        "failover under Sentinel",
        step=acts.fail_over,
        period=15,
        whole=3,
        apart=True,
        terrain=Terrain(replicas=2, store="sentinels"),
    ),
    Fault(
        "failover under Sentinel, forced refreshes",
        step=acts.demand_through_failover,
        period=15,
        whole=3,
        apart=True,
        bounded=False,
        at_most=6,
        terrain=Terrain(replicas=2, store="sentinels"),
    ),
    Fault(
        "failover in a Cluster",
        step=acts.fail_over,
        period=15,
        whole=3,
        apart=True,
        bounded=False,
        terrain=Terrain(replicas=2, store="cluster"),
    ),
]
_REPLIES = [
    Fault(f"{script.verb}'s reply dropped", step=acts.lose_reply(script), period=2, terrain=replace(_TWO, proxied=True))
    for script in (scripts.CLAIM, scripts.COMMIT, scripts.POSTPONE, scripts.PARK)
]
_DISKS = [
    Fault("journals' disk full", step=acts.fill_journals, period=8, terrain=replace(_TWO, small="journals")),
    Fault("store's disk full", step=acts.fill_store, period=15, terrain=replace(_TWO, small="store"), apart=True),
    Fault(
        "store's disk full, synced each second",
        step=acts.fill_store,
        period=15,
        apart=True,
        bounded=False,
        terrain=replace(_TWO, small="store", store_options=("--appendfsync", "everysec")),
    ),
]

FAULTS: tuple[Fault, ...] = (
    CALM,
    *_BEFORE,
    *(fault for lost in _LOST_ANSWERS for fault in _with_grace(lost, share=0.6)),
    *_DEATHS,
    *_OF_THE_STORE,
    *_REPLIES,
    *_DISKS,
    Fault(
        "clock set by an hour",
        step=acts.set_clock,
        end=acts.right_clock,
        period=1.5,
        terrain=replace(_TWO, clocked=True),
    ),
    Fault("two replicas, forced refreshes", step=acts.demand, period=0.15, terrain=_TWO, at_most=6),
)
