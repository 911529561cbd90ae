"""What a refusal of a token endpoint means: from status, codes, words and dialect to a verdict. Pure.

Owns the table of refusals. `token_response` reads the response and makes an outcome of the verdict. What other grants
of the provider met at the same time is known to the store alone: a verdict that depends on it is *doubtful*, and
`store/lua/park.lua` decides.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from broker.providers.dialects import Dialect

Kind = Literal["busy", "dead", "dead_status", "registration", "unauthorized", "rejected"]
"""`dead_status` and `unauthorized` are doubtful: they mean the grant, or the client registration."""

BUSY_STATUSES = frozenset({408, 425, 429, 503})
"""RFC 9110 §15.5.9, RFC 8470 §5.2, RFC 6585 §4, RFC 9110 §15.6.4."""

_BUSY = frozenset({"temporarily_unavailable", "slow_down", "service_unavailable", "rate_limit_exceeded", "ratelimited"})
_FAILED = frozenset({"server_error", "internal_error", "internal_failure", "fatal_error"})
"""Codes of a server that failed. With a status of 500 and above the refresh token may be spent all the same."""
_DEAD = frozenset(
    {
        "invalid_grant",  # RFC 6749 §5.2
        "interaction_required",  # OpenID Connect Core 3.1.2.6, and the three below
        "login_required",
        "consent_required",
        "account_selection_required",
        "bad_refresh_token",
        "invalid_refresh_token",
        "token_revoked",
        "token_expired",
        "authorization_expired",
        "refresh_token_reused",
    }
)
_REGISTRATION = frozenset({"invalid_client", "incorrect_client_credentials"})
_UNAUTHORIZED = frozenset({"unauthorized_client"})
_KNOWN = _BUSY | _FAILED | _DEAD | _REGISTRATION | _UNAUTHORIZED

_CODE_MEMBERS = (
    "error",
    "errors",
    "errorType",
    "error_type",
    "errorCode",
    "error_code",
    "code",
    "type",
    "status",
    "reason",
    "message",
)
_LEADING = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*(?=$|\s*[:;,(])")
"""A code at the beginning of a text: `invalid_grant: the token is expired`."""
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_MAX_DEPTH = 8
_MAX_TEXTS = 100
_MAX_TEXT = 4_000
_MOST_TEXT = 16_000
"""Characters of all texts together: each is searched for secrets, in several encodings, while every request waits."""


class Codes(NamedTuple):
    """What a refusal says: the codes in the places of codes, and every text in it."""

    codes: tuple[str, ...]
    """In lower case, most telling place first."""
    texts: tuple[str, ...]


class Verdict(NamedTuple):
    """What a refusal means, and the code of the standard or of practice that says so ("" where none does)."""

    kind: Kind
    code: str = ""


def find(values: Mapping[str, object], text: str = "") -> Codes:
    """Return the codes and the texts of a refusal.

    Args:
        values: the members of its body; empty if it has none.
        text: its body where that is plain text, and neither JSON nor a form.
    """
    if not values:
        return Codes(tuple(word.lower() for word in _WORD.findall(text[:_MAX_TEXT])), (text[:_MAX_TEXT],))
    codes: dict[str, None] = {}
    for code in _codes(values, 0):
        codes.setdefault(code)
    texts, room = list[str](), _MOST_TEXT
    for found in itertools.islice(_texts(values, 0), _MAX_TEXTS):
        texts.append(found[: min(room, _MAX_TEXT)])
        room -= len(texts[-1])
    return Codes(tuple(codes), tuple(texts))


def judge(status: int, found: Codes, dialect: Dialect) -> Verdict:
    """Return what a refusal means. Of several verdicts the one that loses least counts.

    Busy comes before dead, dead before the registration, and that before a rejection: a grant that is asked again
    loses nothing, and a parked one needs a person.
    """
    codes, words = found.codes, "\n".join(found.texts)
    spoken = {word.lower() for text in found.texts for word in _WORD.findall(text)}
    transient = _BUSY if status >= 500 else _BUSY | _FAILED
    if status in BUSY_STATUSES or (busy := _first(transient, (*codes, *spoken))) or holds(dialect.busy_errors, words):
        return Verdict("busy", "" if status in BUSY_STATUSES else busy)
    if (dead := _first(_DEAD, codes)) or holds(dialect.dead_errors, words):
        return Verdict("dead", dead)
    if (client := _first(_REGISTRATION, codes)) or holds(dialect.registration_errors, words):
        return Verdict("registration", client)
    if unauthorized := _first(_UNAUTHORIZED, codes):
        return Verdict("unauthorized", unauthorized)
    return Verdict("dead_status" if status in dialect.dead_statuses else "rejected")


def holds(wanted: Sequence[str], text: str) -> bool:
    """Return whether one of the words of a setting stands in *text*, as a whole and in any case."""
    return any(_pattern(word).search(text) for word in wanted)


@functools.cache
def _pattern(word: str) -> re.Pattern[str]:
    # A word is no part of another one: AADSTS70008 is not AADSTS700082.
    return re.compile(rf"(?<![A-Za-z0-9_]){re.escape(word.strip())}(?![A-Za-z0-9_])", re.IGNORECASE)


def _first(wanted: frozenset[str], codes: Iterable[str]) -> str:
    return next((code for code in codes if code in wanted), "")


def _codes(value: object, depth: int) -> Iterator[str]:
    """Yield the codes in *value*, a member in the place of a code, and in what it holds."""
    if isinstance(value, str):
        if leading := _LEADING.match(value.strip()):
            yield leading[0].lower().replace("-", "_")
    elif isinstance(value, dict) and depth < _MAX_DEPTH:
        for name in _CODE_MEMBERS:
            if name in value:
                yield from _codes(value[name], depth + 1)
    elif isinstance(value, list) and depth < _MAX_DEPTH:
        for item in value[:_MAX_TEXTS]:
            yield from _codes(item, depth + 1)


def _texts(value: object, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list) and depth < _MAX_DEPTH:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item, depth + 1)
