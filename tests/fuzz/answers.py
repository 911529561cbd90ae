"""Fuzz what a provider sends: token responses, id_tokens, and the members both are made of."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from hypothesis import strategies as st

from broker.errors import ProviderRefused
from broker.model import RESERVED, Answered, Busy
from broker.model.account import MAX_TEXT
from broker.providers import id_token, members, token_response
from broker.providers.members import TEN_YEARS_MS
from broker.secret import Secret
from tests.fuzz.fuzzing import Target
from tests.fuzz.mutations import ODD_PIECES, ODD_TEXTS, altered_bytes, altered_json, json_values, odd_texts, recorded
from tests.providers.reading import NOW, OAUTH2, SENT, V3, strict

_RECORDED = [
    case for file in ("refreshed.ndjson", "refusals.ndjson") for case in recorded(file) if isinstance(case["body"], str)
]
_BODIES = [case["body"].replace("%RT%", SENT[0].reveal()).encode() for case in _RECORDED]
_HEADERS = [case.get("headers") or {} for case in _RECORDED]
_STATUSES = sorted({case["status"] for case in _RECORDED})
_NAMES = [*sorted(RESERVED), "error", "error_description", "expires_on", "expires", "x", "message", "errors"]


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return None


_OBJECTS = [value for body in _BODIES if isinstance(value := _parsed(body), dict)]


def _dumped(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@st.composite
def _headers(draw: st.DrawFn) -> dict[str, str]:
    headers = dict(draw(st.sampled_from(_HEADERS)))
    for name in draw(st.lists(st.sampled_from(["Date", "Retry-After", "Content-Type", "retry-after"]), max_size=2)):
        headers[name] = draw(odd_texts() | st.integers().map(str) | st.datetimes().map(datetime.isoformat))
    return headers


_RESPONSES = st.fixed_dictionaries(
    {
        "status": st.sampled_from(_STATUSES) | st.integers(-1, 1000),
        "headers": _headers(),
        "body": st.none()
        | altered_bytes(_BODIES)
        | altered_json(_OBJECTS, _NAMES).map(_dumped)
        | st.dictionaries(st.sampled_from(_NAMES), json_values(), max_size=5).map(_dumped),
        "fault": st.none() | st.sampled_from(["truncated", "oversized"]),
        "dialect": st.sampled_from([OAUTH2, V3]),
        "issued_at": st.none() | st.just(NOW - 1_000),
    }
)


def _check_response(given: Mapping[str, Any]) -> None:
    """Require an outcome, within its bounds, in strict JSON, and without a secret that was sent."""
    outcome = token_response.read(
        given["status"],
        given["headers"],
        given["body"],
        dialect=given["dialect"],
        now=NOW,
        sent=SENT,
        fault=given["fault"],
        issued_at=given["issued_at"],
    )
    text = strict(outcome)
    if isinstance(outcome, Answered):
        assert outcome.answer.access_token or outcome.answer.refresh_token
        life = outcome.answer.lifetime_ms
        assert life is None or 0 < life <= TEN_YEARS_MS
        return
    assert 0 < len(outcome.code) <= 64
    assert len(outcome.detail) <= 300
    assert not any(secret.reveal() in text for secret in SENT), "a secret of the request is shown"
    if isinstance(outcome, Busy) and outcome.retry_after_ms is not None:
        assert 1_000 <= outcome.retry_after_ms <= 86_400_000


_ISSUER, _CLIENT = "https://as.test", "client"
_CLAIMS: list[dict[str, Any]] = [
    {"iss": _ISSUER, "sub": "u1", "aud": _CLIENT, "exp": NOW // 1000 + 60, "email": "a@b.test", "name": "A"},
    {"iss": _ISSUER, "sub": "u1", "aud": [_CLIENT, "other"], "exp": NOW // 1000 + 60, "tid": "t"},
    {"iss": _ISSUER, "sub": "u1", "aud": _CLIENT, "exp": str(NOW // 1000 + 60), "preferred_username": "a"},
]


def _jwt(payload: bytes, *, padded: bool = False) -> str:
    part = base64.urlsafe_b64encode(payload).decode()
    return f"e30.{part if padded else part.rstrip('=')}.c2ln"


_TOKENS = [_jwt(_dumped(claims)) for claims in _CLAIMS]
_ID_TOKENS = st.tuples(
    altered_json(_CLAIMS, ["tid", "nonce", "azp"]).map(lambda claims: _jwt(_dumped(claims)))
    | altered_bytes([_dumped(claims) for claims in _CLAIMS]).map(lambda payload: _jwt(payload, padded=True))
    | altered_bytes([token.encode() for token in _TOKENS]).map(lambda raw: raw.decode(errors="surrogateescape"))
    | odd_texts(),
    st.sampled_from([None, _ISSUER, "https://as.test/{tenantid}/v2.0", "https://as.test/{tid}"]),
)


def _check_id_token(given: tuple[str, str | None]) -> None:
    """Require an account within its bounds, or `ProviderRefused` without the token in it."""
    text, issuer = given
    try:
        account = id_token.read_account(
            Secret(text), (Secret("at-of-the-same-response"),), issuer=issuer, client_id=_CLIENT, now=NOW
        )
    except ProviderRefused as refused:
        assert len(str(refused)) < 1_000
        assert len(text) < 20 or text not in str(refused)
        return
    assert 0 < len(account.id) <= MAX_TEXT
    assert account.id.isprintable()
    for shown in (account.email, account.preferred_username, account.name):
        assert shown is None or len(shown) <= MAX_TEXT


_DATES = ["Mon, 30 Nov 2026 12:00:00 GMT", "2026-11-30T12:00:00.123456789+01:00", "Monday, 30-Nov-26 12:00:00 GMT"]
_WORDS = altered_bytes([date.encode() for date in [*_DATES, "120", "1.5, 3", ", ".join(_DATES[:1] * 3)]]).map(
    lambda raw: raw.decode(errors="replace")
) | st.sampled_from(ODD_TEXTS)
_MEMBERS = st.tuples(altered_bytes([*_BODIES, *ODD_PIECES]), st.booleans(), _WORDS, json_values())


def _check_members(given: tuple[bytes, bool, str, Any]) -> None:
    """Require members or `Unreadable`, numbers that are numbers, and strict JSON of anything."""
    body, whole, text, value = given
    try:
        found = members.parse(body, whole=whole)
    except members.Unreadable as unreadable:
        assert unreadable.code in {"empty", "not_json", "not_utf8", "not_an_object"}
    else:
        shown = members.strict(found.values, lambda _: False)
        json.dumps(shown, ensure_ascii=False, allow_nan=False).encode()
        assert not {"refresh_token", "id_token"} & shown.keys()
    for read in (members.number(text), members.number(value)):
        assert read is None or read == read, "not a number"  # noqa: PLR0124
    for when in (members.iso_ms(text), members.iso_ms(value), members.date_ms(text)):
        assert when is None or isinstance(when, int)
    wait = members.retry_after_ms(text, NOW)
    assert wait is None or 1_000 <= wait <= 86_400_000
    members.strict({"x": value}, lambda _: False)


TARGETS = (
    Target("token-answers", _RESPONSES, _check_response),
    Target("id-tokens", _ID_TOKENS, _check_id_token),
    Target("members", _MEMBERS, _check_members),
)
