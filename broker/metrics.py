"""What is counted. Names follow Prometheus: base units, timestamps rather than ages."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from broker import __version__

_NAME = "token_broker"


class Metrics:
    """The process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.refreshes = Counter(
            f"{_NAME}_refreshes", "Token requests by what they came to.", ["provider", "outcome"], registry=r
        )
        self.refresh_duration = Histogram(
            f"{_NAME}_refresh_duration_seconds", "Duration of token requests.", ["provider"], registry=r
        )
        self.schedule_lag = Histogram(
            f"{_NAME}_schedule_lag_seconds", "Between a grant's due time and its claim.", ["provider"], registry=r,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
        )  # fmt: skip
        self.token_requests = Counter(
            f"{_NAME}_token_requests", "Reads of a token by how they were answered.", ["outcome"], registry=r
        )
        self.notices = Counter(
            f"{_NAME}_notices", "Notices by way and whether the receiver took them.", ["way", "outcome"], registry=r
        )
        self.grants = Gauge(f"{_NAME}_grants", "Grants by provider and state.", ["provider", "state"], registry=r)
        self.provider_suspended = Gauge(
            f"{_NAME}_provider_suspended", "1 while a provider is suspended.", ["provider"], registry=r
        )
        self.store_up = Gauge(f"{_NAME}_store_up", "1 when the last scrape reached Redis.", registry=r)
        self.cached_tokens = Gauge(f"{_NAME}_cached_tokens", "Tokens in this replica's memory.", registry=r)
        self.subscription_gaps = Counter(
            f"{_NAME}_subscription_gaps", "Times the subscription was lost and everything read again.", registry=r
        )
        self._durability = Gauge(
            f"{_NAME}_durability_at_risk", "1 when the last commit could not be proved to be on disk.", registry=r
        )
        self.clock_offset = Gauge(
            f"{_NAME}_clock_offset_seconds", "Local wall clock ahead of Redis's clock.", registry=r
        )
        Gauge(f"{_NAME}_build_info", "Version of this broker.", ["version"], registry=r).labels(__version__).set(1)

    def durable(self, proved: bool) -> None:  # noqa: FBT001 - reads as a fact
        """Whether the last commit is known to be on disk, here and on the replicas asked for."""
        self._durability.set(0 if proved else 1)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
