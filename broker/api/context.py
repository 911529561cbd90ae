"""What the routes work with: one object, found in the application under `CONTEXT`. Knows no route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from broker.api.cached_responses import CachedResponses
    from broker.api.callers import Callers
    from broker.api.connections import Connections
    from broker.api.denials import Denials
    from broker.api.exposition import Exposition
    from broker.api.health import Health
    from broker.api.hosts import Hosts
    from broker.api.turns import Turns
    from broker.api.verdict import Verdicts
    from broker.login.login import Login
    from broker.login.logout import Logout
    from broker.notify import Notifier
    from broker.process.audit_file import AuditFile
    from broker.process.metrics import Metrics
    from broker.providers import Endpoint
    from broker.read import Reader
    from broker.read.activity import ReadActivity
    from broker.refresh.scheduler import Scheduler
    from broker.settings import Settings
    from broker.settings.changes import Reloaded
    from broker.store import Store


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of the daemon that requests reach."""

    settings: Settings
    store: Store
    reader: Reader
    endpoints: Mapping[str, Endpoint]
    login: Login
    logout: Logout
    callers: Callers
    hosts: Hosts
    responses: CachedResponses
    health: Health
    verdicts: Verdicts
    metrics: Metrics
    scheduler: Scheduler
    notifier: Notifier
    exposition: Exposition
    connections: Connections
    denials: Denials
    audit: AuditFile | None
    read_activity: ReadActivity
    turns: Turns
    reload: Callable[[], Awaitable[Reloaded]]


CONTEXT = web.AppKey("context", Context)
