"""Run the checks: of settings and files, and of connections. Facts are gathered here, and handed on."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from broker.check import file_facts
from broker.check.files import check_data_dir, check_disk, check_secret
from broker.check.finding import Finding, from_error
from broker.check.listening import check_listening
from broker.check.providers import check_provider
from broker.check.public import check_public
from broker.check.public import fetch_facts as fetch_public_facts
from broker.check.read_files import check_read_files
from broker.check.settings import check_ignored, check_settings
from broker.check.store import check_store
from broker.check.weakening import check_weakening
from broker.errors import InvalidSettings
from broker.process import data_dir as private
from broker.process.audit_file import require_usable
from broker.providers import Endpoint, open_http
from broker.providers.facts import fetch_facts as fetch_provider_facts
from broker.providers.proxy import Proxy, ignored_variables
from broker.secret import Sealer
from broker.store.facts import fetch_facts as fetch_store_facts
from broker.store.redis.embedded import require_short_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from broker.check.settings import Where
    from broker.settings import Settings

_AT_ONCE = 16


def offline(settings: Settings, where: Where, files: Sequence[tuple[Path, tuple[str, ...]]]) -> Iterator[Finding]:
    """Yield the findings of *settings* and of the files that they name.

    Args:
        settings: as they were read.
        where: returns where a key was set.
        files: those that were read, each with the names of its providers.
    """
    yield from check_read_files(files)
    yield from check_settings(settings, where)
    yield from check_weakening(settings, where)
    yield from check_ignored(ignored_variables(settings))
    yield from map(from_error, file_facts.find_problems(settings))
    for key, path in file_facts.secret_files(settings):
        if (file := file_facts.fetch_file_facts(key, path)) is not None:
            yield from check_secret(file)
    yield from check_listening(settings)
    yield from _check_audit(settings, where)
    yield from _check_data_dir(settings)


def _check_audit(settings: Settings, where: Where) -> Iterator[Finding]:
    try:
        require_usable(settings.audit)
    except InvalidSettings as error:
        yield from (from_error(f"{where('audit', 'file')}: {finding}") for finding in error.findings)


def _check_data_dir(settings: Settings) -> Iterator[Finding]:
    directory = settings.data_dir
    try:
        if file_facts.nearest(directory) == directory:
            private.require_access(directory)
            if settings.refresh.journal or settings.redis.url == "embedded:":
                private.require_locks(directory)
        else:
            private.require_access(file_facts.nearest(directory))
        if settings.redis.url == "embedded:":
            require_short_path(directory)
    except InvalidSettings as error:
        yield from map(from_error, error.findings)
        return
    except OSError as error:
        yield Finding("error", "data_dir", f"{directory} cannot be used ({error.strerror})", "", "name another")
        return
    if (facts := file_facts.fetch_file_facts("data_dir", directory)) is None:
        yield Finding("ok", "data_dir", f"{directory} does not exist yet: `token-broker run` creates it")
        return
    yield from check_data_dir(facts)
    journal = directory / "journal"
    if settings.refresh.journal and journal.exists() and not journal.is_dir():
        yield Finding("error", "data_dir", f"{journal} is not a directory", "the journal goes there", "move it away")
    place = journal if journal.is_dir() else directory
    try:
        yield from check_disk(file_facts.write_probe(place))
    except OSError as error:
        yield Finding(
            "error",
            "data_dir",
            f"{place} cannot be written ({error.strerror})",
            "refreshing pauses while a token response cannot be written to the journal",
            "free some space, or correct its owner",
        )


async def online(settings: Settings) -> list[Finding]:
    """Return the findings of Redis, of `public_url` and of every provider, all queried at once."""
    store, *providers = await asyncio.gather(
        _check_redis(settings),
        _check_public(settings),
        *(_check_provider(settings, name) for name in settings.providers),
    )
    return [*store, *(finding for found in providers for finding in found)]


async def _check_redis(settings: Settings) -> list[Finding]:
    try:
        passwords = await asyncio.to_thread(private.redis_passwords, settings)
        known = await asyncio.to_thread(private.known_store, settings.data_dir)
    except (InvalidSettings, OSError):
        return []  # `offline` reports it
    sealer = await asyncio.to_thread(_sealer, settings)
    facts = await fetch_store_facts(settings.redis, sealer, data_dir=settings.data_dir, **passwords)
    return list(check_store(facts, settings.redis, known))


def _sealer(settings: Settings) -> Sealer | None:
    path = settings.sealing.keys_file or settings.data_dir / "sealing.keys"
    try:
        return Sealer(private.sealing_keys(settings)) if path.exists() else None
    except (InvalidSettings, OSError):
        return None  # `offline` reports it


async def _check_public(settings: Settings) -> list[Finding]:
    url, timeout = settings.http.public_url, settings.refresh.request_timeout.total_seconds()
    redirect_uris = map(settings.redirect_uri_of, settings.providers)
    return list(check_public(await fetch_public_facts(url, timeout, redirect_uris), url))


async def _check_provider(settings: Settings, name: str) -> list[Finding]:
    timeout = settings.refresh.request_timeout.total_seconds()
    async with open_http(timeout) as http:
        provider = settings.providers[name]
        try:
            proxy = Proxy.from_settings(f"providers.{name}", provider, settings.outgoing)
        except InvalidSettings:
            return []  # `offline` reports it
        endpoint = Endpoint.from_settings(name, provider, http.through(proxy), clock=lambda: int(time.time() * 1000))
        return list(check_provider(await fetch_provider_facts(endpoint, timeout), time.time()))
