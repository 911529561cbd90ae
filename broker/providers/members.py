"""From bytes to members, and from members to values: the lenient half of reading a response.

Owns what counts as readable: UTF-8, JSON as Python reads it or a form, the last of repeated members, numbers in any
notation, and extra members that stay strict JSON. Pure; `token_response` decides what a response *means*.
"""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8
from collections import Counter
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from broker.model import slotted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DAY_MS = 86_400_000
TEN_YEARS_MS = 3_652 * DAY_MS
MIN_RETRY_AFTER_MS = 1_000
MAX_RETRY_AFTER_MS = DAY_MS

_MAX_DEPTH = 32
"""Deeper members are dropped: another parser that reads what the broker writes may nest less deep than Python's."""
_MAX_DIGITS = 300
"""Longer integers are read as floats, hence as infinite: Python does not print integers from 4300 digits on."""
_NUMBER = re.compile(r"[+-]?[0-9]{1,400}(\.[0-9]{0,400})?([eE][+-]?[0-9]{1,4})?")
_MOST_EPOCH_SECONDS = 253_402_300_799
"""The end of the year 9999."""
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ][0-9:.,]{4,20} ?([Zz]|[+-][0-9:]{2,6})?)?")
_DELAY = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")
_FORM = re.compile(r"[A-Za-z0-9_.\-]+=[^&\s<>{}\"]*(&[A-Za-z0-9_.\-]+=[^&\s<>{}\"]*)*")
_FORM_MEMBERS = frozenset({"access_token", "refresh_token", "error"})
_NESTED_SECRETS = frozenset({"refresh_token", "id_token"})
_DROP = object()


class Unreadable(Exception):
    """A body without readable members; `code` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@slotted
class Members:
    """The members of a response, and the names that occurred twice."""

    values: Mapping[str, object]
    repeated: tuple[str, ...] = ()
    odd_bytes: bool = False
    """Some bytes are not UTF-8: the texts hold them as `surrogateescape` makes them."""


def parse(body: bytes, *, whole: bool = True) -> Members:
    """Return the members of *body*, whatever its Content-Type: servers send good JSON under any.

    Args:
        body: JSON or a form.
        whole: False: the body may be cut off; only JSON is read then, since a form has no end.

    Raises:
        Unreadable: the body is neither.
    """
    body = body.removeprefix(BOM_UTF8)
    try:
        text, odd_bytes = body.decode(), False
    except UnicodeDecodeError:
        # Not replaced: a refresh token with U+FFFD in it is another one. Not rejected either: a Latin-1 letter in a
        # member that nobody needs must not lose the refresh token beside it.
        text, odd_bytes = body.decode(errors="surrogateescape"), True
    if not text.strip():
        raise Unreadable("empty")
    try:
        value = _JSON.decode(text)
    except (ValueError, RecursionError):
        value = _form(text) if whole else None
        if (found := leading_object(text)) is not None:
            value = found[0]
        if value is None:
            raise Unreadable("not_utf8" if odd_bytes else "not_json") from None
    if not isinstance(value, dict):
        raise Unreadable("not_an_object")
    return Members(value, value.names if isinstance(value, _Repeated) else (), odd_bytes)


def leading_object(text: str) -> tuple[object, str] | None:
    """Return the JSON object that *text* begins with, and its own text.

    What follows it, a NUL or a comment of a proxy, does not make its tokens worse.
    """
    text = text.lstrip()
    if not text.startswith("{"):
        return None
    try:
        value, end = _JSON.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return value, text[:end]


class _Repeated(dict[str, object]):
    """A JSON object in which *names* occurred twice; the last of each counts."""

    names: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        members = _Repeated(members)
        members.names = tuple(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
    return members


def _int(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


_JSON = json.JSONDecoder(strict=False, object_pairs_hook=_object, parse_int=_int)


def _form(text: str) -> dict[str, object] | None:
    text = text.strip()
    if not _FORM.fullmatch(text):
        return None
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=1_000)
    except ValueError:
        return None
    members: dict[str, object] = dict(pairs)
    return members if members.keys() & _FORM_MEMBERS else None


def number(value: object) -> float | None:
    """Return a number, or the text of one, as a float: infinite beyond all bounds; None if it is no number."""
    if isinstance(value, str):
        value = value.strip()
        return float(value) if _NUMBER.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    result = float(value)  # never an OverflowError: `_int` bounds the digits
    return None if math.isnan(result) else result


def epoch_to_ms_from(value: float, now: int) -> int | None:
    """Return the milliseconds from *now* (epoch ms) to *value*, an epoch in seconds or milliseconds.

    None if it is neither: a point in time that has passed, or that is more than ten years ahead.
    """
    for in_ms in (value * 1_000, value):
        if math.isfinite(in_ms) and 0 < in_ms - now <= TEN_YEARS_MS:
            return int(in_ms - now)
    return None


def epoch_ms(value: float) -> float:
    """Return an epoch in seconds or milliseconds as milliseconds: seconds up to the year 9999."""
    return value if value > _MOST_EPOCH_SECONDS else value * 1_000


def iso_ms(value: object) -> int | None:
    """Return a point in time in ISO 8601 as epoch ms; UTC where it names no zone; None if it is none."""
    if not isinstance(value, str) or not _ISO.fullmatch(value := value.strip()):
        return None
    try:
        date = datetime.fromisoformat(value.upper())
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1_000)
    except (ValueError, OverflowError):
        return None


def date_ms(text: str | None) -> int | None:
    """Return an HTTP date (RFC 9110 §5.6.7) as epoch ms; None if it is none."""
    if not text:
        return None
    try:
        date = parsedate_to_datetime(text)
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1_000)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def retry_after_ms(text: str | None, now: int) -> int | None:
    """Return `Retry-After` (RFC 9110 §10.2.3) in ms, between one second and one day; None if it is unreadable.

    *now* (epoch ms) is what a date is compared with. Of several values the longest counts.
    """
    if not text:
        return None
    text = text[:1_000]
    spans: list[float] = []
    if (date := date_ms(text)) is not None:
        spans.append(date - now)
    pieces = [piece.strip() for piece in text.split(",")]
    spans += [float(piece) * 1_000 for piece in pieces if _DELAY.fullmatch(piece)]
    # A date itself contains a comma: repeated dates are pairs of pieces.
    dates = (date_ms(f"{day}, {rest}") for day, rest in pairwise(pieces))
    spans += [date - now for date in dates if date is not None]
    if not spans:
        return None
    return int(min(max(*spans, MIN_RETRY_AFTER_MS), MAX_RETRY_AFTER_MS))


def strict_text(text: str) -> str:
    """Return *text* such that UTF-8 can encode it: half a surrogate pair becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def strict(values: Mapping[str, object], hide: Callable[[str], bool]) -> dict[str, object]:
    """Return *values* as strict JSON: no NaN, no lone surrogate, no unbounded nesting.

    Refresh and ID tokens are left out at any depth, and so is every text that *hide* says repeats a secret.
    """
    kept = _strict(values, hide, 0)
    return kept if isinstance(kept, dict) else {}


def _strict(value: object, hide: Callable[[str], bool], depth: int) -> object:
    if isinstance(value, str):
        return _DROP if hide(value) else strict_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict | list) and depth > _MAX_DEPTH:
        return None
    if isinstance(value, dict):
        items = (
            (strict_text(name), _strict(item, hide, depth + 1))
            for name, item in value.items()
            if name not in _NESTED_SECRETS and not hide(name)
        )
        return {name: item for name, item in items if item is not _DROP}
    if isinstance(value, list):
        return [item for item in (_strict(item, hide, depth + 1) for item in value) if item is not _DROP]
    return value
