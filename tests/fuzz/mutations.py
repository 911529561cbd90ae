"""Strategies that begin with something real: bytes and JSON of true messages, altered here and there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from tests.paths import ROOT

ODD_TEXTS = (
    "",
    " ",
    "\0",
    "\r\n",
    "\ud800",
    "\udc80",
    "ä",
    "😀",
    "\u202e",
    "\x1b[2J",
    "NaN",
    "1e999",
    "-1",
    "٣",
    "9" * 5000,
    "%",
    "%FF%00",
    "[" * 2000,
    "{" * 40,
    "x" * 70_000,
    "2026-11-30T12:00:00Z",
    "0000-00-00",
    "Mon, 30 Nov 2026 12:00:00 GMT",
)
"""Texts that parsers meet once a year."""

ODD_PIECES = (
    b"",
    b"\0",
    b"\n",
    b"\r\n\r\n",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
    b"\\ud800",
    b"[" * 3000,
    b'{"a":' * 1500,
    b"9" * 5000,
    b"1e999",
    b"NaN",
    b"null",
    b"{}",
    b"=",
    b"&",
    b"%",
    b",",
    b";",
    b" ",
    b"-",
)


def odd_texts(longest: int = 100_000) -> st.SearchStrategy[str]:
    """Return a strategy of texts that are seldom written, or any text; lone surrogates occur."""
    return st.sampled_from([text for text in ODD_TEXTS if len(text) <= longest]) | st.text(
        st.characters(codec=None), max_size=20
    )


def json_values() -> st.SearchStrategy[Any]:
    """Return a strategy of anything that JSON can say, and of some that only Python's can."""
    plain = st.none() | st.booleans() | st.integers() | st.floats() | odd_texts()
    return st.recursive(
        plain,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts(20), inner, max_size=3),
        max_leaves=6,
    )


@st.composite
def altered_bytes(draw: st.DrawFn, samples: Sequence[bytes], pieces: Sequence[bytes] = ODD_PIECES) -> bytes:
    """Draw one of *samples* with up to five spans of it replaced, removed or repeated."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 24)))
        piece = draw(st.sampled_from(pieces) | st.binary(max_size=6) | st.just(data[start:end] * 2))
        data = data[:start] + piece + data[end:]
    return data


@st.composite
def altered_json(draw: st.DrawFn, samples: Sequence[Any], names: Sequence[str] = ()) -> Any:
    """Draw one of *samples* (values of JSON) with up to four members replaced, removed, moved or added."""
    value = json.loads(json.dumps(draw(st.sampled_from(samples))))
    for _ in range(draw(st.integers(0, 4))):
        value = draw(_altered(value, names))
    return value


@st.composite
def _altered(draw: st.DrawFn, value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, dict) and draw(st.integers(0, 4)):
        known = sorted(value) + list(names)
        name = draw(st.sampled_from(known) if known else odd_texts(20))
        how = draw(st.sampled_from(["alter", "remove", "wrap", "rename"]))
        if how == "remove":
            return {key: item for key, item in value.items() if key != name}
        if how == "rename":
            return {(draw(odd_texts(20)) if key == name else key): item for key, item in value.items()}
        item = [value.get(name)] if how == "wrap" else draw(_altered(value.get(name), names))
        return {**value, name: item}
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(_altered(value[at], names)), *value[at + 1 :]]
    return draw(json_values())


def recorded(name: str) -> list[dict[str, Any]]:
    """Return the responses of real servers in `tests/providers/NAME`."""
    return [json.loads(line) for line in (ROOT / "tests/providers" / name).read_text("utf-8").splitlines() if line]
