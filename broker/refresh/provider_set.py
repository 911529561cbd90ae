"""The providers of a running broker: their endpoints, what follows from their settings, and their lanes.

One `ProviderSet` for the process. Everybody else gets views of it, which are current at every read and cost what a
dict costs. Knows neither where settings come from nor what a request does with an endpoint.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from broker.notify import Limits
from broker.process.heartbeat import Heartbeat
from broker.settings.changes import compare_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from broker.model import OldToken
    from broker.process.metrics import Metrics
    from broker.providers import Endpoint
    from broker.refresh.scheduler import Lane, Scheduler
    from broker.settings import Provider
    from broker.settings.changes import TableChanges

    MakeEndpoint = Callable[[str, Provider], Endpoint]
    MakeLane = Callable[[Endpoint, Heartbeat], Lane]


class ProviderSet:
    """The providers that the settings name now."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._settings: Mapping[str, Provider] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._limits: dict[str, Limits] = {}
        self._old_tokens: dict[str, OldToken] = {}
        self._heartbeats: dict[str, Heartbeat] = {}
        self._lanes: tuple[Scheduler, MakeLane] | None = None
        self.endpoints: Mapping[str, Endpoint] = MappingProxyType(self._endpoints)
        """By name. Whoever makes a request takes its endpoint once, and keeps it to the end of that request."""
        self.limits: Mapping[str, Limits] = MappingProxyType(self._limits)
        """By name, how long the provider's grants live."""
        self.old_tokens: Mapping[str, OldToken] = MappingProxyType(self._old_tokens)
        """By name, what a refresh does to the access token before it."""

    @property
    def heartbeats(self) -> Sequence[Heartbeat]:
        """Of the lanes."""
        return tuple(self._heartbeats.values())

    def start_lanes(self, scheduler: Scheduler, make_lane: MakeLane) -> None:
        """Give every provider a lane of *scheduler*, and from now on every new one."""
        self._lanes = scheduler, make_lane
        for endpoint in self._endpoints.values():
            self._add_lane(endpoint)

    def replace(self, providers: Mapping[str, Provider], make_endpoint: MakeEndpoint) -> TableChanges:
        """Have these *providers* in place of those before. A request under way ends with the endpoint it began with.

        A provider whose settings are the same keeps its endpoint, and with it what discovery found.
        """
        changes = compare_tables(self._settings, providers)
        endpoints = {name: make_endpoint(name, providers[name]) for name in (*changes.added, *changes.changed)}
        for name, endpoint in endpoints.items():
            dialect = endpoint.dialect
            self._endpoints[name] = endpoint
            self._limits[name] = Limits(dialect.absolute_limit_ms, dialect.idle_limit_ms)
            self._old_tokens[name] = dialect.old_token
        for name in changes.added:
            self._metrics.begin_provider(name)
            self._add_lane(endpoints[name])
        for name in changes.changed:
            if self._lanes is not None:
                self._lanes[0].change(endpoints[name])
        for name in changes.removed:
            self._remove(name)
        self._settings = dict(providers)
        return changes

    def _add_lane(self, endpoint: Endpoint) -> None:
        if self._lanes is None:
            return
        scheduler, make_lane = self._lanes
        name = endpoint.dialect.name
        heartbeat = self._heartbeats[name] = Heartbeat(f"lane {name}")
        scheduler.add(make_lane(endpoint, heartbeat))

    def _remove(self, name: str) -> None:
        for mapping in (self._endpoints, self._limits, self._old_tokens, self._heartbeats):
            mapping.pop(name, None)
        if self._lanes is not None:
            self._lanes[0].remove(name)
