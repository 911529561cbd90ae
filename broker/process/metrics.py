"""The metrics of the broker, and their text form. Names follow Prometheus: base units, timestamps rather than ages.

Counters and histograms are updated as things happen. Gauges are made anew for each scrape and kept nowhere, so that a
grant, a provider or a Redis that is gone leaves no stale value behind. The reference of the metrics is made from this
module. It does not know where the values come from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from broker import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_NAME = "token_broker"
OUTCOMES = (
    "refreshed",
    "unchanged",
    "unusable",
    "not_sent",
    "busy",
    "unknown",
    "dead",
    "registration",
    "rejected",
)
"""The outcomes of a token request."""
READS = ("cached", "stale", "waited", "too_fresh", "dead", "unavailable", "denied")
"""The outcomes of a token read: from memory; from memory although its refresh is overdue; after waiting; refused since
the last refresh was too recent; the grant is dead; no valid token right now; the caller lacks the right."""
CLOSED = ("room", "silent", "slow", "stalled", "refused")
"""Why the broker closes a caller's connection: to make room for a new one; no request came; its head took too
long; a request, or the reading of its response, stalled; it was one too many while all were busy."""
DENIED = (
    "no_key",
    "unknown_key",
    "short_key",
    "two_keys",
    "session_over",
    "other_page",
    "no_right",
    "other_provider",
    "wrong_host",
    "unknown_login",
    "other_browser",
    "quota_requests",
    "quota_long_polls",
    "quota_grants",
)
"""Why the broker refuses access."""
RISKS = ("journal_off", "journal_failing", "commit_unproved")
"""Why a failure could lose a token response."""

disable_created_metrics()  # type: ignore[no-untyped-call] # else each counter has a second line that nobody reads


@dataclass(frozen=True, slots=True)
class ProviderFigures:
    """The state of one provider; *error* while it is suspended.

    *unserved* counts its grants without a valid token; None: the index does not have all of them yet.
    """

    name: str
    grants: Mapping[str, int]
    error: str | None
    unserved: int | None = None


@dataclass(frozen=True, slots=True)
class GrantFigures:
    """What is known of one grant, times in epoch ms. *warning_level* of its end: 0, 1 or 2."""

    grant_id: str
    provider: str
    expires_at: int | None
    next_at: int | None
    succeeded_at: int | None
    reauthorize_by: int | None
    warning_level: int | None


@dataclass(frozen=True, slots=True)
class ParkedFigures:
    """A grant that waits for a person, since when (epoch ms), and the reason."""

    grant_id: str
    provider: str
    since: int
    reason: str


@dataclass(frozen=True, slots=True)
class Standing:
    """The values of the gauges at one moment. *providers* is None if Redis did not answer: then theirs are absent."""

    providers: Sequence[ProviderFigures] | None
    truncated: bool = False
    journal_entries: int = 0
    lost_grants: int = 0
    risks: frozenset[str] = frozenset()
    subscribers: int = 0
    cached_tokens: int = 0
    connections: int = 0
    audit_failing: bool = False
    clock_offset: float = 0.0


@dataclass(slots=True)
class Metrics:
    """Counters and histograms in a registry of their own."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    refreshes: Counter = field(init=False)
    refresh_duration: Histogram = field(init=False)
    schedule_lag: Histogram = field(init=False)
    token_requests: Counter = field(init=False)
    subscription_gaps: Counter = field(init=False)
    notices: Counter = field(init=False)
    connections_closed: Counter = field(init=False)
    denied: Counter = field(init=False)
    audit_lost: Counter = field(init=False)

    def __post_init__(self) -> None:
        r = self.registry
        self.refreshes = Counter(
            f"{_NAME}_refreshes", "Token requests by outcome.", ["provider", "outcome"], registry=r
        )
        self.refresh_duration = Histogram(
            f"{_NAME}_refresh_duration_seconds", "Duration of token requests.", ["provider"], registry=r
        )
        self.schedule_lag = Histogram(
            f"{_NAME}_schedule_lag_seconds",
            "Time from a grant's due time to its claim.",
            ["provider"],
            registry=r,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
        )
        self.token_requests = Counter(f"{_NAME}_token_requests", _TOKEN_REQUESTS, ["outcome"], registry=r)
        for outcome in READS:
            self.token_requests.labels(outcome)
        self.subscription_gaps = Counter(
            f"{_NAME}_subscription_gaps",
            "Times the subscription was lost, and the broker read again all it has in memory.",
            registry=r,
        )
        self.notices = Counter(
            f"{_NAME}_notices",
            "Notices by channel, and by whether the receiver accepted them.",
            ["way", "outcome"],
            registry=r,
        )
        self.connections_closed = Counter(f"{_NAME}_connections_closed", _CONNECTIONS_CLOSED, ["reason"], registry=r)
        for reason in CLOSED:
            self.connections_closed.labels(reason)
        self.denied = Counter(f"{_NAME}_denied", "Requests whose access was denied, by reason.", ["reason"], registry=r)
        for reason in DENIED:
            self.denied.labels(reason)
        self.audit_lost = Counter(
            f"{_NAME}_audit_lost", "Lines of the audit stream that found no room while it was not written.", registry=r
        )
        Gauge(f"{_NAME}_build_info", "Version of this broker.", ["version"], registry=r).labels(__version__).set(1)

    def begin_provider(self, name: str) -> None:
        """Have the counts of a provider begin at 0, so that rates see the first. Those that it has already stay."""
        for outcome in OUTCOMES:
            self.refreshes.labels(name, outcome)

    def render(self, standing: Standing) -> bytes:
        """Return counters, histograms and gauges in the text exposition format."""
        return generate_latest(self.registry) + _text(lambda: _standing(standing))


def render_grants(grants: Sequence[GrantFigures], parked: Sequence[ParkedFigures]) -> bytes:
    """Return the metrics of single grants in the text exposition format.

    They are thousands of lines, so they are written here: the library takes ten times as long.
    """
    labels = [_labels(grant=grant.grant_id, provider=grant.provider) for grant in grants]
    lines: list[str] = []
    for name, help_, attribute in _TIMESTAMPS:
        moments = zip(labels, map(attrgetter(attribute), grants), strict=True)
        lines += _lines(
            f"grant_{name}_timestamp_seconds", help_, [(of, at / 1000) for of, at in moments if at is not None]
        )
    near = [
        (of, grant.warning_level) for of, grant in zip(labels, grants, strict=True) if grant.warning_level is not None
    ]
    lines += _lines("grant_reauthorize_soon", _SOON, near)
    since = [(_labels(grant=p.grant_id, provider=p.provider, reason=p.reason), p.since / 1000) for p in parked]
    lines += _lines("grant_parked_timestamp_seconds", _PARKED, since)
    return "".join(lines).encode()


def _labels(**labels: str) -> str:
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPED)}"' for name, value in labels.items()) + "}"


def _lines(name: str, help_: str, values: Iterable[tuple[str, float]]) -> list[str]:
    full = f"{_NAME}_{name}"
    return [f"# HELP {full} {help_}\n# TYPE {full} gauge\n", *(f"{full}{labels} {value}\n" for labels, value in values)]


def _text(families: Callable[[], Iterator[GaugeMetricFamily]]) -> bytes:
    shown = CollectorRegistry()
    shown.register(_Shown(families))
    return generate_latest(shown)


class _Shown(Collector):
    """Metric families made for one scrape."""

    def __init__(self, families: Callable[[], Iterator[GaugeMetricFamily]]) -> None:
        self._families = families

    def describe(self) -> list[GaugeMetricFamily]:
        """Return nothing: no name here can clash with another collector's."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return the families."""
        return self._families()


def _standing(standing: Standing) -> Iterator[GaugeMetricFamily]:
    """Yield every gauge but those of single grants; those of providers only if Redis answered."""
    yield _gauge("store_up", "1 if this scrape reached Redis.", float(standing.providers is not None))
    yield _gauge(
        "journal_entries", "Token responses in the journal that Redis has not confirmed.", standing.journal_entries
    )
    yield _gauge("lost_grants", "Grants whose data Redis lost and no journal restored.", standing.lost_grants)
    yield _gauge(
        "subscribers", "Callers that wait at this broker for a token or for the next one.", standing.subscribers
    )
    yield _gauge("cached_tokens", "Tokens in the memory of this broker.", standing.cached_tokens)
    yield _gauge("connections", "Open connections of callers.", standing.connections)
    yield _gauge("audit_failing", "1 while the audit stream cannot be written.", float(standing.audit_failing))
    yield _gauge("clock_offset_seconds", "Local wall clock minus the clock of Redis.", standing.clock_offset)
    risks = _family("durability_at_risk", "1 if a failure could lose a token response, by reason.", "reason")
    for reason in RISKS:
        risks.add_metric([reason], float(reason in standing.risks))
    yield risks
    if standing.providers is None:
        return
    counts = _family("grants", "Grants by provider and state.", "provider", "state")
    unserved = _family("grants_unserved", "Grants without a valid token for callers; 0 where all is well.", "provider")
    suspended = _family("provider_suspended", "1 while a provider is suspended; error says why.", "provider", "error")
    for provider in standing.providers:
        for state, count in provider.grants.items():
            counts.add_metric([provider.name, state], count)
        if provider.unserved is not None:
            unserved.add_metric([provider.name], provider.unserved)
        suspended.add_metric([provider.name, provider.error or ""], float(provider.error is not None))
    yield counts
    yield unserved
    yield suspended
    yield _gauge(
        "grants_truncated",
        "1 if there are more grants than the soonest metrics.max_grants, which are shown individually.",
        float(standing.truncated),
    )


_TIMESTAMPS = (
    ("access_token_expiry", "Expiry of the grant's access token.", "expires_at"),
    ("next_refresh", "Time of the grant's next refresh; absent while it is being refreshed or parked.", "next_at"),
    ("last_success", "Time when the provider last issued a token for the grant.", "succeeded_at"),
    ("reauthorize_by", "Time when the provider ends the grant unless a person logs in again.", "reauthorize_by"),
)

_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_SOON = "2 if a person must log in within three days, 1 within two weeks, else 0; notices use the same thresholds."
_PARKED = "Time when a grant was parked until a person acts; reason says why. Shows those parked last."
_TOKEN_REQUESTS = (
    "Token reads by outcome. stale: served although its refresh is overdue; waited: served after a wait; "
    "too_fresh: refused, since the last refresh was too recent; denied: the caller lacks the right."
)
_CONNECTIONS_CLOSED = (
    "Connections of callers that the broker closed. room: for a new one; silent: no request came; "
    "slow: its head; stalled: within a request or response; refused: one too many while all were busy."
)


def _family(name: str, help_: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_NAME}_{name}", help_, labels=labels)


def _gauge(name: str, help_: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_NAME}_{name}", help_, value=value)
