"""The settings as read: the TOML file below the environment, and errors that say where and what to do."""

from __future__ import annotations

import difflib
import os
import tomllib
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from broker.errors import InvalidSettings
from broker.settings.environment import Environment, model_of, table_of
from broker.settings.findings import WORDS, lines_of, not_toml
from broker.settings.schema import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from broker.settings.environment import Keys


def load(path: Path | None) -> Settings:
    """Return the settings of a file, overridden by the environment.

    Args:
        path: The file; None: the environment alone.

    Raises:
        InvalidSettings: everything that is wrong, one finding a line: `FILE:LINE: KEY: what is allowed`.
    """
    text, table = _read(path)
    environment = Environment(Settings, table)
    findings = environment.findings
    try:
        settings = Settings.model_validate({"_environment": environment})
    except ValidationError as error:
        lines = lines_of(text)
        variables = environment.variables
        in_file = []
        for found in error.errors(include_url=False, include_input=False):
            location = [part for part in found["loc"] if part != "[key]"]
            if location == ["redis"] and found["type"] == "missing":
                location.append("url")
            line, where = _where(str(path or "settings"), lines, variables, location)
            in_file.append((line, f"{where}: {_key(location)}{_words(found, location)}"))
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
    text, table = _read(path)
    lines, variables = lines_of(text), Environment(Settings, table).variables
    return lambda *keys: _where(str(path or "settings"), lines, variables, keys)[1]


def _read(path: Path | None) -> tuple[str, dict[str, Any]]:
    """Return the file's text and the table that it holds."""
    if path is None:
        return "", {}
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidSettings(
            f"{path}: cannot be read by uid {os.getuid()} ({error.strerror}): name another file with --config, or make "
            "one with `token-broker init > broker.toml`"
        ) from None
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InvalidSettings(f"{path}:{line}: is not UTF-8: save the file as UTF-8") from None
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(f"{path}:{not_toml(str(error), text)}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or as many brackets
        raise InvalidSettings(f"{path}: is not TOML for settings: `token-broker init` prints an example") from None


def _where(
    file: str, lines: Mapping[Keys, int], variables: Mapping[Keys, str], location: Sequence[int | str]
) -> tuple[int, str]:
    """Return where the value at *location* was set: the line number (0: a variable), and that in words.

    Where the file lacks the key itself, the words name the line of the innermost table around it.
    """
    path = tuple(str(part) for part in location)
    parts = [path[:end] for end in range(len(path), 0, -1)]
    if variable := next((variables[part] for part in parts if part in variables), None):
        return 0, f"environment: {variable}"
    in_file = next((part for part in parts if part in lines), ())
    table = path[:-1]
    beside = [variable for keys, variable in variables.items() if keys[: len(table)] == table]
    if len(table) > 1 and beside and len(in_file) < len(table):
        return 0, f"environment: {beside[0]}"  # a provider or caller that only variables set
    return (lines[in_file], f"{file}:{lines[in_file]}") if in_file else (1, file)


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
    words = WORDS.get(found["type"], "is not allowed here").format_map(found.get("ctx", {}))
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
