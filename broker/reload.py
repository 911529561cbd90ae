"""Read the settings again while the broker runs, and take up what can be: providers, callers, the log.

All is read and checked first, in a thread; only then is anything changed, and then at once, between two turns of the
event loop. So wrong settings change nothing, and no request sees half of a change.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from broker.api.callers import Callers
from broker.errors import Conflict, InvalidSettings, StoreUnavailable
from broker.process import logs
from broker.process.tasks import begin
from broker.providers.client_secret import require_secrets
from broker.providers.proxy import require_proxies
from broker.settings.changes import TAKEN_UP, Reloaded, TableChanges, compare_tables, needing_restart, taken_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from broker.api.health import Health
    from broker.process.audit_file import AuditFile
    from broker.process.systemd import Systemd
    from broker.refresh.provider_set import MakeEndpoint, ProviderSet
    from broker.settings import Settings
    from broker.store import Store

log = structlog.get_logger()
_NAMED = 100
"""Grants of a provider without settings that are named in the log."""


class Reload:
    """Takes up the settings, one reading after the other."""

    def __init__(
        self,
        read: Callable[[], Settings] | None,
        running: Settings,
        *,
        providers: ProviderSet,
        make_endpoint: MakeEndpoint,
        callers: Callers,
        store: Store,
        health: Health,
        systemd: Systemd,
        audit: AuditFile | None = None,
    ) -> None:
        """Wire it.

        Args:
            read: Reads the settings as they are now; None: they are never read again.
            running: What the broker was started with.
            providers: Takes up the tables of providers.
            make_endpoint: Makes the endpoint of a provider.
            callers: Takes up the callers.
            store: Knows the grants of providers that are gone.
            health: Knows whether the broker runs.
            systemd: Is notified of the beginning and the end.
            audit: Keeps which callers changed.
        """
        self._audit = audit
        self._read = read
        self._running = running
        self._providers = providers
        self._make_endpoint = make_endpoint
        self._callers = callers
        self._store = store
        self._health = health
        self._systemd = systemd
        self._one_at_a_time = asyncio.Lock()
        self._next: asyncio.Task[Reloaded] | None = None
        self._naming: asyncio.Task[None] | None = None

    def on_signal(self) -> None:
        """Open the audit file anew after SIGHUP, and read the settings again; what came of it is in the log."""
        if self._audit is not None:
            self._audit.reopen()
        if self._read is not None:
            _ = self._request(self._read)

    async def __call__(self) -> Reloaded:
        """Read the settings again, and return what came of it.

        Raises:
            InvalidSettings: they are wrong, and nothing was changed.
            Conflict: this broker was not started from settings that can be read again.
        """
        if self._read is None:
            raise Conflict("this broker was not started from a settings file: restart it with other settings")
        return await asyncio.shield(self._request(self._read))

    def _request(self, read: Callable[[], Settings]) -> asyncio.Task[Reloaded]:
        """Have the settings read once more, by a reading that has not begun yet."""
        if self._next is None:
            self._next = begin(self._take_turn(read))
            self._next.add_done_callback(_retrieve)
        return self._next

    async def _take_turn(self, read: Callable[[], Settings]) -> Reloaded:
        async with self._one_at_a_time:
            self._next = None  # who asks from now on may have changed what is being read
            reported = self._health.started and not self._health.stopping
            if reported:
                self._systemd.reloading()
            try:
                return await self._reload(read)
            finally:
                if reported:
                    self._systemd.ready(self._health.summary())

    async def _reload(self, read: Callable[[], Settings]) -> Reloaded:
        try:
            settings, callers = await asyncio.to_thread(self._read_all, read)
            changes = self._providers.replace(settings.providers, self._make_endpoint)
        except InvalidSettings as error:
            log.error("settings.not_reloaded", findings=error.findings)
            raise
        rekeyed = self._callers.rekeyed(callers)
        self._callers.replace(callers)
        if settings.log != self._running.log:
            logs.set_up(settings.log)
        before = self._running
        self._running = before.model_copy(update={name: getattr(settings, name) for name in TAKEN_UP})
        reloaded = Reloaded(
            providers=changes,
            caller_changes=_caller_changes(before, settings, rekeyed),
            keys=taken_up(before, settings),
            callers=tuple(settings.callers),
            log_level=settings.log.level,
            needs_restart=needing_restart(self._running, settings),
        )
        log.info(
            "settings.reloaded",
            providers_added=changes.added,
            providers_changed=changes.changed,
            providers_removed=changes.removed,
            callers_added=reloaded.caller_changes.added,
            callers_changed=reloaded.caller_changes.changed,
            callers_removed=reloaded.caller_changes.removed,
            changed=reloaded.keys,
            callers=reloaded.callers,
            log_level=reloaded.log_level,
        )
        changed = reloaded.caller_changes
        if self._audit is not None and (changed.added or changed.changed or changed.removed):
            self._audit.write("rights.changed", added=changed.added, changed=changed.changed, removed=changed.removed)
        if reloaded.needs_restart:
            log.warning("settings.restart_needed", keys=reloaded.needs_restart)
        self._naming = begin(name_waiting_grants(self._store, changes.removed))
        return reloaded

    def _read_all(self, read: Callable[[], Settings]) -> tuple[Settings, Callers]:
        settings = read()
        changes = compare_tables(self._running.providers, settings.providers)
        new = {name: settings.providers[name] for name in (*changes.added, *changes.changed)}
        require_secrets(new)
        require_proxies(self._running, new)
        return settings, Callers.load(settings.callers, self._running.data_dir)


def _caller_changes(before: Settings, now: Settings, rekeyed: Iterable[str]) -> TableChanges:
    """Return how the callers differ; *rekeyed* are those whose file holds another key, whatever their table says."""
    tables = compare_tables(before.callers, now.callers)
    return replace(tables, changed=(*tables.changed, *(name for name in rekeyed if name not in tables.changed)))


def _retrieve(reloading: asyncio.Task[Reloaded]) -> None:
    """Retrieve the exception, since after a signal nobody waits for it, and log one that is not in the log yet."""
    error = None if reloading.cancelled() else reloading.exception()
    if error is not None and not isinstance(error, InvalidSettings):
        log.error("settings.not_reloaded", findings=["token-broker has a bug"], exc_info=error)


async def name_waiting_grants(store: Store, providers: Iterable[str]) -> None:
    """Name in the log the grants of these *providers*, which the settings lack: they wait until a table is back."""
    for provider in providers:
        try:
            (state,) = await store.grants.providers([provider])
            page = await store.grants.page([provider], ["parked", "leased", "due"], None, _NAMED)
        except StoreUnavailable as error:
            log.warning("provider.missing", provider=provider, grants=None, error=str(error))
            continue
        if grants := sum(state.counts.values()):
            named = [grant.grant_id for _, grant in page.rows]
            log.warning("provider.missing", provider=provider, grants=grants, grant_ids=named)


async def name_all_waiting_grants(store: Store, providers: Mapping[str, object]) -> None:
    """Name in the log the grants of all providers but these, at start."""
    try:
        known = await store.grants.known_providers()
    except StoreUnavailable:
        return  # a broker that loses Redis right now has more to say
    await name_waiting_grants(store, sorted(known.difference(providers)))
