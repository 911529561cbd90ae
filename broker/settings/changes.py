"""What differs between two readings of the settings, and which of it needs a restart. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from broker.settings.schema import Settings

TAKEN_UP = frozenset({"include", "providers", "callers", "log"})
"""The keys and tables that a running broker takes up; all others need a restart."""


@dataclass(frozen=True, slots=True)
class TableChanges:
    """The names of tables of one kind that are new, that differ, and that are gone."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What reading the settings again came to."""

    providers: TableChanges
    caller_changes: TableChanges
    keys: tuple[str, ...]
    """Keys whose new values the broker took up in tables that it had, such as `providers.acme.scope`."""
    callers: tuple[str, ...]
    """Those that are known now."""
    log_level: str
    needs_restart: tuple[str, ...]
    """Keys whose values differ from those that the broker runs with, such as `http.listen`."""


def compare_tables(before: Mapping[str, object], now: Mapping[str, object]) -> TableChanges:
    """Return how the tables *now* differ from those *before*, by name."""
    return TableChanges(
        added=tuple(name for name in now if name not in before),
        changed=tuple(name for name in now if name in before and now[name] != before[name]),
        removed=tuple(name for name in before if name not in now),
    )


def taken_up(running: Settings, now: Settings) -> tuple[str, ...]:
    """Return the keys that a *running* broker takes up, and whose values differ in a table that it has and keeps."""
    keys = list(_differing("log", running.log, now.log))
    for table in ("providers", "callers"):
        before, after = getattr(running, table), getattr(now, table)
        for name in compare_tables(before, after).changed:
            keys += _differing(f"{table}.{name}", before[name], after[name])
    return tuple(keys)


def needing_restart(running: Settings, now: Settings) -> tuple[str, ...]:
    """Return the keys of *now* that differ from those of the *running* broker, and that it cannot take up."""
    names = [name for name in type(now).model_fields if name not in TAKEN_UP]
    return tuple(key for name in names for key in _differing(name, getattr(running, name), getattr(now, name)))


def _differing(key: str, before: Any, now: Any) -> Iterator[str]:
    if isinstance(now, BaseModel) and type(now) is type(before):
        for name in type(now).model_fields:
            yield from _differing(f"{key}.{name}", getattr(before, name), getattr(now, name))
    elif before != now:
        yield key
