"""Findings in a TOML text: the line of each key, and the words for what is wrong. Pure."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from broker.settings.values import spelled

if TYPE_CHECKING:
    from broker.settings.environment import Keys

_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"\s*\[\s*({_DOTTED})\s*\]")
_PAIR = re.compile(rf"\s*({_DOTTED})\s*=")

WORDS = (
    {
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
    }
    | dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false")
    | dict.fromkeys(
        ("date_type", "date_from_datetime_inexact", "date_from_datetime_parsing"), "must be a date, such as 2026-11-30"
    )
    | dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "must be a whole number")
)
"""What is allowed, by pydantic's name of the error; pydantic's own sentences are for programmers."""


HOLDS_NUL = "holds a NUL character (\\u0000), which no name of a file or server can: remove it"


def keys_with_nul(table: dict[str, Any]) -> list[Keys]:
    """Return the keys of *table* whose texts hold a NUL character: the system's calls raise `ValueError` for one.

    Not recursive: dotted keys nest deeper than Python calls.
    """
    found: list[Keys] = []
    rest: list[tuple[Keys, Any]] = [((), table)]
    while rest:
        keys, value = rest.pop()
        match value:
            case str() if "\0" in value:
                found.append(keys)
            case dict():
                rest += [((*keys, key), inner) for key, inner in value.items()]
            case list():
                rest += [(keys, inner) for inner in value]
            case _:
                pass
    return found


def spelled_bound(value: Any) -> Any:
    """Return a bound of pydantic's as the settings spell it: a duration with its unit, `1h`."""
    found = re.fullmatch(r"datetime\.timedelta\((?:days=(\d+))?(?:, )?(?:seconds=(\d+))?\)", str(value))
    return spelled(timedelta(days=int(found[1] or 0), seconds=int(found[2] or 0))) if found else value


def not_toml(error: str, text: str) -> str:
    """Return `LINE: is not TOML …`, from tomllib's own words."""
    at = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", error, re.DOTALL)
    what, number, column = at.groups() if at else (error, None, None)
    name = re.search(r"\('.*',?\)", what)  # tomllib writes [a.b] as ('a', 'b')
    if name:
        what = what.replace(name[0], "[" + ".".join(re.findall("'(.*?)'", name[0])) + "]")
    hint = " (is a quote not closed?)" if "character '\\n'" in what else ""
    where = (
        f"{number}: is not TOML, column {column}" if number else f"{text.count(chr(10)) + 1}: is not TOML at its end"
    )
    return f"{where}: {what[:1].lower()}{what[1:]}{hint}"


def lines_of(text: str) -> dict[Keys, int]:
    """Return the line number of every key and table header that begins a line."""
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
