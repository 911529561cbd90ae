"""From bytes to members, and from members to values: the lenient half of reading an answer.

Owns what counts as readable: UTF-8, JSON as Python reads it or a form, the last of doubled members, numbers in any
dress, and extra members that stay strict JSON. Pure; what an answer *means* is decided in `answer`.
"""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8
from collections import Counter
from datetime import UTC
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
"""Deeper members are dropped: whoever writes them out again may nest less deep than our parser."""
_MAX_DIGITS = 300
"""Longer integers are read as floats, hence as infinite: Python refuses to print them from 4300 digits on."""
_NUMBER = re.compile(r"[+-]?[0-9]{1,400}(\.[0-9]{0,400})?([eE][+-]?[0-9]{1,4})?")
_DELAY = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")
_FORM = re.compile(r"[A-Za-z0-9_.\-]+=[^&\s<>{}\"]*(&[A-Za-z0-9_.\-]+=[^&\s<>{}\"]*)*")
_FORM_MEMBERS = frozenset({"access_token", "refresh_token", "error"})
_NESTED_SECRETS = frozenset({"refresh_token", "id_token"})
_DROP = object()


class Unreadable(Exception):
    """A body from which no members can be had; `code` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@slotted
class Members:
    """The members of an answer, and the names that stood there twice."""

    values: Mapping[str, object]
    doubled: tuple[str, ...] = ()
    odd_bytes: bool = False
    """Some bytes are no UTF-8: they stand in the texts as `surrogateescape` makes them."""


def parse(body: bytes, *, whole: bool = True) -> Members:
    """The members of *body*, JSON or (only if *whole*, for a form has no end) form-encoded. Raises `Unreadable`.

    The Content-Type is not asked: servers send good JSON under any.
    """
    body = body.removeprefix(BOM_UTF8)
    try:
        text, odd_bytes = body.decode(), False
    except UnicodeDecodeError:
        # Not replaced: a refresh token with U+FFFD in it is another one. Not refused either: a Latin-1 letter in a
        # member that nobody needs must not lose the refresh token beside it.
        text, odd_bytes = body.decode(errors="surrogateescape"), True
    if not text.strip():
        raise Unreadable("empty")
    try:
        value = _JSON.decode(text)
    except (ValueError, RecursionError):
        value = _form(text) if whole else None
        if value is None:
            raise Unreadable("not_utf8" if odd_bytes else "not_json") from None
    if not isinstance(value, dict):
        raise Unreadable("not_an_object")
    return Members(value, value.names if isinstance(value, _Doubled) else (), odd_bytes)


class _Doubled(dict[str, object]):
    """A JSON object in which *names* stood twice; the last of each counts."""

    names: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        members = _Doubled(members)
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
    """*value* as a number, be it one or the text of one; infinite when beyond all bounds; None when it is none."""
    if isinstance(value, str):
        value = value.strip()
        return float(value) if _NUMBER.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    result = float(value)  # never an OverflowError: `_int` bounds the digits
    return None if math.isnan(result) else result


def epoch_to_ms_from(value: float, now: int) -> int | None:
    """Milliseconds from *now* (epoch ms) to *value*, an epoch in seconds or milliseconds; None if it is neither.

    A point in time that has passed, or that is more than ten years ahead, is none.
    """
    for in_ms in (value * 1_000, value):
        if math.isfinite(in_ms) and 0 < in_ms - now <= TEN_YEARS_MS:
            return int(in_ms - now)
    return None


def date_ms(text: str | None) -> int | None:
    """An HTTP date (RFC 9110 §5.6.7) as epoch ms, None when it is none."""
    if not text:
        return None
    try:
        date = parsedate_to_datetime(text)
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1_000)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def retry_after_ms(text: str | None, now: int) -> int | None:
    """`Retry-After` (RFC 9110 §10.2.3) in ms, between one second and one day; None when there is none to read.

    *now* (epoch ms) is what a date is compared with. Of several values the longest holds.
    """
    if not text:
        return None
    text = text[:1_000]
    spans: list[float] = []
    if (date := date_ms(text)) is not None:
        spans.append(date - now)
    pieces = [piece.strip() for piece in text.split(",")]
    spans += [float(piece) * 1_000 for piece in pieces if _DELAY.fullmatch(piece)]
    # A date contains a comma itself: doubled dates are pairs of pieces.
    dates = (date_ms(f"{day}, {rest}") for day, rest in pairwise(pieces))
    spans += [date - now for date in dates if date is not None]
    if not spans:
        return None
    return int(min(max(*spans, MIN_RETRY_AFTER_MS), MAX_RETRY_AFTER_MS))


def strict_text(text: str) -> str:
    """*text* such that it can be written as UTF-8: what was half a surrogate pair becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def strict(values: Mapping[str, object], hide: Callable[[str], bool]) -> dict[str, object]:
    """*values* as strict JSON: no NaN, no lone surrogate, no bottomless nesting.

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
