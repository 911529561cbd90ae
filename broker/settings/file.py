"""The settings as read: TOML files below the environment, and errors that say where and what to do."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from broker.errors import InvalidSettings
from broker.settings.environment import Environment, model_of, table_of
from broker.settings.findings import WORDS, spelled_bound
from broker.settings.include import described, read_sources
from broker.settings.schema import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from broker.settings.environment import Keys
    from broker.settings.include import Place


def load(path: Path | None) -> Settings:
    """Return the settings of a file, overridden by the environment.

    Args:
        path: The file; None: the environment alone.

    Raises:
        InvalidSettings: everything that is wrong, one finding a line: `FILE:LINE: KEY: what is allowed`.
    """
    sources = read_sources(path)
    environment = Environment(Settings, sources.table)
    findings = [*sources.findings, *environment.findings]
    try:
        settings = Settings.model_validate({"_environment": environment})
    except ValidationError as error:
        places, variables = sources.places(), environment.variables
        in_file = []
        for found in error.errors(include_url=False, include_input=False):
            location = [part for part in found["loc"] if part != "[key]"]
            if location == ["redis"] and found["type"] == "missing":
                location.append("url")
            rank, where = _where(str(path or "settings"), places, variables, location)
            in_file.append((rank, f"{where}: {_key(location)}{_words(found, location)}"))
        findings += [words for _, words in sorted(in_file, key=lambda found: found[0])]
        raise InvalidSettings(*findings) from None
    if findings:
        raise InvalidSettings(*findings)
    return settings


def origins(path: Path | None) -> Callable[..., str]:
    """Return a function that says where a key, given as its parts, was set: `FILE:LINE`, or its variable.

    Raises:
        InvalidSettings: the file cannot be read, or is not TOML.
    """
    sources = read_sources(path)
    places, variables = sources.places(), Environment(Settings, sources.table).variables
    return lambda *keys: _where(str(path or "settings"), places, variables, keys)[1]


def files(path: Path | None) -> Sequence[tuple[Path, tuple[str, ...]]]:
    """Return each file that `load` reads, and the names of the providers in it.

    Raises:
        InvalidSettings: the settings file cannot be read, or is not TOML.
    """
    return described(read_sources(path))


def read_from(path: Path | None) -> tuple[list[Path], list[str]]:
    """Return what `load` reads: the files, the settings file first, and the variables of the environment over them.

    Raises:
        InvalidSettings: the settings file cannot be read, or is not TOML.
    """
    sources = read_sources(path)
    found = [file.absolute() for file, _ in described(sources)]
    return found, sorted(Environment(Settings, sources.table).variables.values())


def _where(
    file: str, places: Mapping[Keys, Place], variables: Mapping[Keys, str], location: Sequence[int | str]
) -> tuple[tuple[int, int], str]:
    """Return where the value at *location* was set: the rank of its file and the line (0: a variable), and in words.

    Where the file lacks the key itself, the words name the line of the innermost table around it.
    """
    path = tuple(str(part) for part in location)
    parts = [path[:end] for end in range(len(path), 0, -1)]
    if variable := next((variables[part] for part in parts if part in variables), None):
        return (0, 0), f"environment: {variable}"
    in_file = next((part for part in parts if part in places), ())
    table = path[:-1]
    beside = [variable for keys, variable in variables.items() if keys[: len(table)] == table]
    if len(table) > 1 and beside and len(in_file) < len(table):
        return (0, 0), f"environment: {beside[0]}"  # a provider or caller that only variables set
    place = places.get(in_file)
    return ((place.rank, place.line), str(place)) if place else ((0, 1), file)


def _key(location: Sequence[int | str]) -> str:
    names = ".".join(part for part in location if isinstance(part, str))
    items = [f" (item {part + 1})" for part in location if isinstance(part, int)]
    return f"{names}{''.join(items)}: "


def _words(found: Any, location: Sequence[int | str]) -> str:
    """Return what is wrong at *location* and what to write instead."""
    if found["type"] == "extra_forbidden":
        return "no such key" + _instead(location)
    if found["type"] == "missing" and location[0] == "redis":
        return (
            'is missing: write [redis] url = "redis://HOST:6379/0", or url = "embedded:" for a server in data_dir; '
            "`token-broker demo` needs no settings"
        )
    if found["type"] == "missing":
        return f"is missing: add it below [{'.'.join(map(str, location[:-1]))}]"
    bounds = {name: spelled_bound(value) for name, value in found.get("ctx", {}).items()}
    words = WORDS.get(found["type"], "is not allowed here").format_map(bounds)
    table = len(location) == 2 and location[0] in {"providers", "callers"} and "table" in words
    return f"{words}, such as [{location[0]}.NAME]" if table else words


def _instead(location: Sequence[int | str]) -> str:
    """Return a hint for an unknown key: the table it belongs to, the nearest name, or all allowed ones."""
    *above, last = location
    kind: Any = Settings
    for part in above:
        model = model_of(kind)
        kind = model.model_fields[str(part)].annotation if model else table_of(kind)
    model, key = model_of(kind) or Settings, str(last)
    if key in Settings.model_fields:  # so it was written below some [table]
        return f": {key} belongs above the first [table]" if key == "data_dir" else f": write [{key}]"
    for section, field in Settings.model_fields.items():
        if (other := model_of(field.annotation)) and key in other.model_fields:
            return f": it belongs below [{section}]"
    if near := difflib.get_close_matches(key, list(model.model_fields), n=1):
        return f": did you mean {near[0]}?"
    return f"; allowed: {', '.join(model.model_fields)}"
