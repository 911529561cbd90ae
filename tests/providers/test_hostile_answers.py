"""Hostile responses, huge, deep and broken, and a fuzz test: none raises, each is an outcome."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.model import RESERVED, Answered, Busy
from broker.providers import redaction, token_response
from broker.secret import Secret

from .reading import NOW, OAUTH2, V3, answered, read, strict

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.providers.dialects import Dialect


@pytest.mark.parametrize("name", ["expires_in", "refresh_in", "quota", "expires_on"])
@pytest.mark.parametrize("digits", [400, 5_000, 100_000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_huge_numbers(name: str, digits: int, sign: str) -> None:
    """A number of thousands of digits neither raises nor counts."""
    read_as = answered(f'{{"access_token":"a2","{name}":{sign}{"9" * digits}}}'.encode())
    assert (read_as.lifetime_ms, read_as.refresh_in_ms) == (None, None)
    strict(Answered(read_as))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [40, 500, 5_000, 50_000])
def test_deep_nesting(opening: str, depth: int) -> None:
    """Endlessly nested JSON never raises, and what is passed on is shallow."""
    closing = "]" if opening == "[" else "}"
    body = f'{{"access_token":"a2","x":{opening * depth}1{closing * depth}}}'
    strict(read(body.encode()))


def test_lone_surrogates() -> None:
    """Half a surrogate pair in extra members, scope or codes is replaced; in a refresh token it is kept."""
    body = b'{"access_token":"a2","refresh_token":"r\\ud800","scope":"\\udc00 b","x\\ud800":["\\ud83d\\ude00\\udfff"]}'
    read_as = answered(body)
    assert read_as.refresh_token == Secret("r\ud800")
    assert read_as.extra == {"x\ufffd": ["😀\ufffd"]}
    strict(Answered(read_as))
    strict(read(b'{"error":"\\ud800","error_description":"\\ud800"}', 400))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text(st.characters(categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_names = st.sampled_from([*sorted(RESERVED), "error", "error_description", "expires_on", "expires", "x"])
_headers = st.dictionaries(
    st.sampled_from(["Retry-After", "Date", "Content-Type"]),
    st.text(max_size=40) | st.integers().map(str) | st.floats().map(str) | st.dates().map(str),
)
_statuses = st.sampled_from([200, 201, 204, 302, 400, 401, 403, 429, 500, 503]) | st.integers(0, 999)


@settings(deadline=None)
@given(
    status=_statuses,
    headers=_headers,
    body=st.none()
    | st.binary(max_size=200)
    | st.dictionaries(_names, _json).map(lambda value: json.dumps(value).encode())
    | _json.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(_names, st.text(max_size=8)).map(
        lambda form: "&".join(f"{quote(k)}={quote(v, errors='replace')}" for k, v in form.items()).encode()
    ),
    fault=st.none() | st.just("truncated"),
    sent=st.lists(st.text(max_size=12).map(Secret), max_size=3),
    dialect=st.sampled_from([OAUTH2, V3]),
)
@example(status=200, headers={}, body=b"\xef\xbb\xbf", fault=None, sent=[], dialect=OAUTH2)
@example(status=200, headers={"Date": "Mon, 01 Jan 0000 00:00:00 GMT"}, body=b"{}", fault=None, sent=[], dialect=V3)
def test_any_answer_is_an_outcome(
    status: int, headers: dict[str, str], body: bytes | None, fault: str | None, sent: list[Secret], dialect: Dialect
) -> None:
    """Nothing a server may send raises, and every outcome is strict JSON in UTF-8."""
    outcome = token_response.read(status, headers, body, dialect=dialect, now=NOW, sent=sent, fault=fault)
    strict(outcome)
    if isinstance(outcome, Answered):
        assert outcome.answer.access_token or outcome.answer.refresh_token
        life = outcome.answer.lifetime_ms
        assert life is None or 0 < life <= 3_652 * 86_400_000
    else:
        assert 0 < len(outcome.code) <= 64
        assert len(outcome.detail) <= 300
    if isinstance(outcome, Busy) and outcome.retry_after_ms is not None:
        assert 1_000 <= outcome.retry_after_ms <= 86_400_000


@pytest.mark.parametrize("members", [{"error_description": "%25" * 80_000}, {"errors": ["%25" * 800] * 100}])
def test_a_long_refusal_is_judged_in_little_time(members: dict[str, object]) -> None:
    """A quarter of a megabyte of escapes costs a tenth of what it would if all of it were searched for secrets."""
    began = time.process_time()
    for _ in range(3):
        read(members, 400)
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize("encode", [str, quote, lambda text: quote(quote(text)), lambda text: quote(quote(text, ""))])
@pytest.mark.parametrize("padding", range(0, 40, 3))
def test_no_part_of_a_secret_is_left_where_a_long_text_is_cut(encode: Callable[[str], str], padding: int) -> None:
    """A text that consists of secrets, and is longer than what is read of it, shows none of them, nor a part of one."""
    secret = Secret("sekrit/ä€-" + "0123456789" * 3)
    text = "." * padding + encode(secret.reveal()) * 3_000
    shown = redaction.detail(text, (secret,))
    assert "sekrit" not in shown
    assert "0123" not in shown
