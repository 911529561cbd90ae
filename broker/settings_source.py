"""Reading the settings: the TOML file, the environment over it, and errors that say where and what to do."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from broker.errors import CorrectSettings
from broker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

ENV_PREFIX = "TOKEN_BROKER_"
NOT_SETTINGS = frozenset({"URL", "KEY", "KEY_FILE", "CONFIG"})
"""Variables of the client and the commands."""
_OF_KUBERNETES = re.compile(r"SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")
"""What Kubernetes sets in every pod beside a Service of the name token-broker."""

Keys = tuple[str, ...]
_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"\s*\[\s*({_DOTTED})\s*\]")
_PAIR = re.compile(rf"\s*({_DOTTED})\s*=")

_WORDS = {
    "string_type": "must be text in quotes",
    "path_type": "must be a path in quotes",
    "literal_error": "must be {expected}",
    "list_type": 'must be a list, such as ["…"]',
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "missing": "is missing",
    "value_error": "{error}",
} | dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false") | dict.fromkeys(
    ("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "must be a whole number"
)  # fmt: skip
"""What is allowed, by pydantic's name of the error. Its own sentences speak to programmers."""


def load(path: Path | None) -> Settings:
    """The settings of *path* (None: environment alone) with the environment over them.

    Raises `CorrectSettings` with everything that is wrong, one finding a line: `FILE:LINE: KEY: what is allowed`.
    """
    text, table = _read(path)
    variables, findings = _overlay(table)
    try:
        settings = Settings.model_validate(table)
    except ValidationError as error:
        lines = _lines(text)
        in_file = []
        for found in error.errors(include_url=False, include_input=False):
            location = [part for part in found["loc"] if part != "[key]"]
            if location == ["redis"] and found["type"] == "missing":
                location.append("url")
            line, where = _where(str(path or "settings"), lines, variables, location)
            in_file.append((line, f"{where}: {_key(location)}{_words(found, location)}"))
        findings += [words for _, words in sorted(in_file, key=lambda found: found[0])]
        raise CorrectSettings(*findings) from None
    if findings:
        raise CorrectSettings(*findings)
    return settings


def _read(path: Path | None) -> tuple[str, dict[str, Any]]:
    """The file's text and what it means."""
    if path is None:
        return "", {}
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CorrectSettings(
            f"{path}: cannot be read by uid {os.getuid()} ({error.strerror}): name another with --config, or make one "
            "with `token-broker init > broker.toml`"
        ) from None
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise CorrectSettings(f"{path}:{line}: is not UTF-8: save the file as UTF-8") from None
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CorrectSettings(f"{path}:{_not_toml(str(error), text)}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or as many brackets
        raise CorrectSettings(f"{path}: is not TOML that settings could be: `token-broker init` prints some") from None


def _not_toml(error: str, text: str) -> str:
    """`LINE: is not TOML …`, from tomllib's own words."""
    at = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", error, re.DOTALL)
    what, number, column = at.groups() if at else (error, None, None)
    name = re.search(r"\('.*',?\)", what)  # it spells [a.b] as ('a', 'b')
    if name:
        what = what.replace(name[0], "[" + ".".join(re.findall("'(.*?)'", name[0])) + "]")
    hint = " (a quote that is not closed?)" if "character '\\n'" in what else ""
    where = (
        f"{number}: is not TOML, column {column}" if number else f"{text.count(chr(10)) + 1}: is not TOML at its end"
    )
    return f"{where}: {what[:1].lower()}{what[1:]}{hint}"


def _overlay(table: dict[str, Any]) -> tuple[dict[Keys, str], list[str]]:
    """Write the environment over *table*: which key came from which variable, and what is wrong with others."""
    variables: dict[Keys, str] = {}
    findings = []
    for variable, raw in sorted(os.environ.items()):
        name, value = variable.removeprefix(ENV_PREFIX), raw.strip()
        if name == variable or not value or name in NOT_SETTINGS or _OF_KUBERNETES.fullmatch(name):
            continue
        try:
            path, kind = _placed(name.split("__"), table)
            _merge(table, path, _parsed(value, kind))
        except CorrectSettings as error:
            findings.append(f"environment: {variable}: {error}")
        else:
            variables[path] = variable
    return variables, findings


def _placed(parts: Sequence[str], table: Mapping[str, Any]) -> tuple[Keys, Any]:
    """The path in the settings that a variable's name means, and the annotation there. Raises `CorrectSettings`."""
    path: list[str] = []
    kind: Any = Settings
    here: Any = table
    for part in parts:
        if model := _model(kind):
            key = part.lower()
            if key not in model.model_fields:
                known = ["__".join(known) for known in _known(Settings, table)]
                near = difflib.get_close_matches("__".join(parts), known, n=1, cutoff=0.7)
                raise CorrectSettings(
                    f"no such setting: did you mean {ENV_PREFIX}{near[0]}?" if near else
                    f"no such setting: {ENV_PREFIX}HTTP__LISTEN, for one, is listen below [http]"
                )  # fmt: skip
            kind = model.model_fields[key].annotation
        elif (of := _table_of(kind)) is not None:
            # A variable's name has neither '-' nor '.', and is mostly written in capitals.
            names = here if isinstance(here, dict) else ()
            spelled = [name for name in names if _as_variable(name) == _as_variable(part)]
            key, kind = spelled[0] if spelled else part.lower(), of
        else:
            raise CorrectSettings(f"{'.'.join(path)} is no table: drop __{part}")
        path.append(key)
        here = here.get(key) if isinstance(here, dict) else None
    return tuple(path), kind


def _as_variable(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def _known(kind: Any, table: Any) -> Iterator[Keys]:
    """The names of all variables below *kind*, those of the providers and callers in *table* too."""
    inner: Mapping[str, Any] = {}
    if model := _model(kind):
        inner = {name: field.annotation for name, field in model.model_fields.items()}
    elif (of := _table_of(kind)) is not None and _model(of):
        inner = dict.fromkeys(table if isinstance(table, dict) else (), of)
    for name, below in inner.items():
        yield (_as_variable(name),)
        for rest in _known(below, table.get(name) if isinstance(table, dict) else None):
            yield _as_variable(name), *rest


def _model(kind: Any) -> type[BaseModel] | None:
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _table_of(kind: Any) -> Any:
    """What the values of a table with free keys are; None where *kind* is none."""
    return get_args(kind)[1] if get_origin(kind) is dict else None


def _is_list(kind: Any) -> bool:
    origin = get_origin(kind)
    return origin in {list, tuple} or (origin in {Annotated, Union, UnionType} and any(map(_is_list, get_args(kind))))


def _parsed(value: str, kind: Any) -> Any:
    """A variable's text as the file would hold it: lists and tables as JSON, a list also with commas between."""
    is_list = _is_list(kind)
    if _model(kind) is None and _table_of(kind) is None and not is_list:
        return value
    if is_list and not value.startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, list if is_list else dict):
        raise CorrectSettings('must be a list: a,b or ["a", "b"]' if is_list else 'must be a table as JSON: {"…": …}')
    return parsed


def _merge(table: dict[str, Any], path: Keys, value: Any) -> None:
    """Put *value* at *path*; a table there already is added to. What is no table in the file stays, and is found."""
    *above, last = path
    for key in above:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            return
    if isinstance(value, dict) and isinstance(table.get(last), dict):
        for key, below in value.items():
            _merge(table[last], (key,), below)
    else:
        table[last] = value


def _lines(text: str) -> dict[Keys, int]:
    """The line of every key and table header, as far as they stand at the beginning of a line."""
    lines: dict[Keys, int] = {}
    section: Keys = ()
    for number, line in enumerate(text.split("\n"), 1):
        if header := _HEADER.match(line):
            path = section = _keys(header[1])
        elif pair := _PAIR.match(line):
            path = section + _keys(pair[1])
        else:
            continue
        for end in range(1, len(path) + 1):
            lines.setdefault(path[:end], number)
    return lines


def _keys(dotted: str) -> Keys:
    return tuple(key.strip("\"'") for key in re.findall(_KEY, dotted))


def _where(
    file: str, lines: Mapping[Keys, int], variables: Mapping[Keys, str], location: Sequence[int | str]
) -> tuple[int, str]:
    """Line, and in words, of the value at *location*: its variable, or the longest part of it that the file has."""
    path = tuple(str(part) for part in location)
    parts = [path[:end] for end in range(len(path), 0, -1)]
    if variable := next((variables[part] for part in parts if part in variables), None):
        return 0, f"environment: {variable}"
    in_file = next((part for part in parts if part in lines), ())
    table = path[:-1]
    beside = [variable for keys, variable in variables.items() if keys[: len(table)] == table]
    if len(table) > 1 and beside and len(in_file) < len(table):
        return 0, f"environment: {beside[0]}"  # a provider or caller that only a variable speaks of
    return (lines[in_file], f"{file}:{lines[in_file]}") if in_file else (1, file)


def _key(location: Sequence[int | str]) -> str:
    names = ".".join(part for part in location if isinstance(part, str))
    items = [f" (item {part + 1})" for part in location if isinstance(part, int)]
    return f"{names}{''.join(items)}: "


def _words(found: Any, location: Sequence[int | str]) -> str:
    """What is wrong at *location* and what to write instead."""
    if found["type"] == "extra_forbidden":
        return "no such key" + _instead(location)
    if found["type"] == "missing" and location[0] == "redis":
        return (
            'is missing: say where Redis is, [redis] url = "redis://HOST:6379/0", or url = "embedded:" for one in '
            "data_dir; `token-broker demo` needs no settings at all"
        )  # fmt: skip
    if found["type"] == "missing":
        return f"is missing: add it below [{'.'.join(map(str, location[:-1]))}]"
    words = _WORDS.get(found["type"], "is not allowed here").format_map(found.get("ctx", {}))
    table = len(location) == 2 and location[0] in {"providers", "callers"} and "table" in words  # noqa: PLR2004
    return f"{words}, such as [{location[0]}.NAME]" if table else words


def _instead(location: Sequence[int | str]) -> str:
    """What may have been meant by an unknown key: where it belongs, the nearest name, or all there are."""
    *above, last = location
    kind: Any = Settings
    for part in above:
        model = _model(kind)
        kind = model.model_fields[str(part)].annotation if model else _table_of(kind)
    model, key = _model(kind) or Settings, str(last)
    if key in Settings.model_fields:  # so it stands below some [table]
        return f": {key} belongs above the first [table]" if key == "data_dir" else f": write [{key}]"
    for section, field in Settings.model_fields.items():
        if (other := _model(field.annotation)) and key in other.model_fields:
            return f": it belongs below [{section}]"
    if near := difflib.get_close_matches(key, list(model.model_fields), n=1):
        return f": did you mean {near[0]}?"
    return f"; allowed: {', '.join(model.model_fields)}"
