"""What a success of a token endpoint means: lifetimes, tokens, scope, and what is passed on."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import Any

import pytest

from broker.model import RESERVED, Answered, TokenResponse
from broker.providers.refresh_token import trim
from broker.secret import Secret

from .reading import NOW, TOKENS, answered, strict


def test_whole_answer_is_read() -> None:
    """Every member of CameraManager's documented response arrives where it belongs."""
    body = {
        "access_token": "0a1b:10003",
        "token_type": "bearer",
        "refresh_token": "9f8e:10003",
        "expires_in": 43199,
        "scope": "write",
        "refresh_in": 1800,
        "httpsBaseUrl": {"hostname": "api.c001.test", "port": 443},
        "id_token": "eyJ",
        "generation": 7,
        "expires_at": 1,
    }
    read_as = answered(body)
    assert read_as == TokenResponse(
        access_token=Secret("0a1b:10003"),
        refresh_token=Secret("9f8e:10003"),
        token_type="bearer",
        lifetime_ms=43_199_000,
        refresh_in_ms=1_800_000,
        scope="write",
        extra={"httpsBaseUrl": {"hostname": "api.c001.test", "port": 443}},
        id_token=Secret("eyJ"),
    )


@pytest.mark.parametrize(
    ("members", "life_ms", "warned"),
    [
        pytest.param({"expires_in": 3600}, 3_600_000, False, id="integer"),
        pytest.param({"expires_in": 3599.7}, 3_599_700, False, id="fraction"),
        pytest.param({"expires_in": 3600.0}, 3_600_000, False, id="point zero"),
        pytest.param({"expires_in": 3.6e3}, 3_600_000, False, id="exponent"),
        pytest.param({"expires_in": "3600"}, 3_600_000, False, id="text"),
        pytest.param({"expires_in": " 3599.5 "}, 3_599_500, False, id="text with fraction and blanks"),
        pytest.param({"expires_in": 0}, None, True, id="zero"),
        pytest.param({"expires_in": -1}, None, True, id="negative"),
        pytest.param({"expires_in": 0.0001}, None, True, id="less than a millisecond"),
        pytest.param({"expires_in": True}, None, True, id="boolean"),
        pytest.param({"expires_in": {"x": 1}}, None, True, id="object"),
        pytest.param({"expires_in": "soon"}, None, True, id="word"),
        pytest.param({"expires_in": "٣٦٠٠"}, None, True, id="digits of another script"),
        pytest.param({"expires_in": None}, None, False, id="null"),
        pytest.param({}, None, False, id="absent"),
        pytest.param({"expires_in": NOW // 1000 + 3600}, 3_600_000, True, id="epoch seconds"),
        pytest.param({"expires_in": NOW + 3_600_000}, 3_600_000, True, id="epoch milliseconds"),
        pytest.param({"expires_in": 50 * 365 * 86400}, None, True, id="fifty years"),
        pytest.param({"expires_in": NOW // 1000 - 5}, None, True, id="epoch in the past"),
        pytest.param({"expires_on": str(NOW // 1000 + 3600)}, 3_600_000, False, id="only expires_on, a text"),
        pytest.param({"expires": 3600}, 3_600_000, True, id="only expires"),
        pytest.param({"expires_in": 60, "expires_on": NOW}, 60_000, False, id="expires_in before expires_on"),
        pytest.param({"expires_in": "soon", "expires": 60}, 60_000, True, id="expires_in unreadable"),
    ],
)
def test_lifetime(members: dict[str, Any], life_ms: int | None, warned: bool) -> None:
    """A lifetime is read in any notation; an implausible one is None and causes a warning."""
    read_as = answered({"access_token": "a2", **members})
    assert read_as.lifetime_ms == life_ms
    assert bool(read_as.warnings) == warned


def test_foreign_epoch_is_measured_on_the_servers_clock() -> None:
    """With a clock ten minutes ahead a point in time still gives the lifetime that the server meant."""
    server = NOW // 1000 - 600
    read_as = answered(
        {"access_token": "a2", "expires_on": server + 300}, headers={"Date": formatdate(server, usegmt=True)}
    )
    assert read_as.lifetime_ms == 300_000


def test_foreign_times_travel_but_never_replace_ours() -> None:
    """`expires_on` is passed on; `expires_at` is the broker's own member."""
    read_as = answered({**TOKENS, "expires_on": 1, "expires_at": 2})
    assert read_as.extra == {"expires_on": 1}


@pytest.mark.parametrize("value", ["soon", 0, -3, True, 10**30, []])
def test_refresh_in_that_is_none_is_dropped_with_a_warning(value: object) -> None:
    """A hint that cannot be followed does not change the schedule."""
    read_as = answered({**TOKENS, "refresh_in": value})
    assert (read_as.refresh_in_ms, len(read_as.warnings)) == (None, 1)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"access_token=a2&refresh_token=r2&expires=3600", id="plain"),
        pytest.param(b"access_token=a%32&refresh_token=r2&expires=3600\n", id="percent-encoded"),
    ],
)
def test_form_encoded_success(body: bytes) -> None:
    """A success in the form encoding is a success."""
    read_as = answered(body, headers={"content-type": "text/plain"})
    assert (read_as.access_token, read_as.refresh_token, read_as.lifetime_ms) == (Secret("a2"), Secret("r2"), 3_600_000)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [(["a", "b"], "a b"), ([1, "a"], "a"), ([], None), (None, None), ("", None), ({"x": 1}, None), (" a  b ", "a b")],
)
def test_scope_is_a_text_or_absent(scope: object, expected: str | None) -> None:
    """Whatever a server sends as `scope`, it becomes one text or None."""
    assert answered({**TOKENS, "scope": scope}).scope == expected


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("a\tb\r\nc", "a b c"),
        ("a  b \u00a0 c", "a b c"),
        ('"a b"', "a b"),
        ("a\\b", "ab"),
        ("a\x00b\x7f \x1b c", "ab c"),
        ("caf\u00e9 \u20ac x", "caf x"),
        ("\ud800 x", "x"),
        ('"', None),
        (["a b", '"c"'], "a b c"),
        ("!#$%&'()*+,-./:;<=>?@[]^_`{|}~", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~"),
        ("https://api.test/auth/x.read openid", "https://api.test/auth/x.read openid"),
    ],
)
def test_scope_keeps_what_may_stand_in_one(scope: object, expected: str | None) -> None:
    """A scope keeps only the characters of RFC 6749 §3.3 and single spaces: it is sent on, in headers and forms too."""
    assert answered({**TOKENS, "scope": scope}).scope == expected


def test_an_error_beside_tokens_is_not_passed_on() -> None:
    """A caller that sees `error` in a response takes it for an error: the tokens count, the error is only warned of."""
    error = {"error": "odd", "error_description": "words", "error_uri": "https://as.test/e"}
    read_as = answered({**TOKENS, **error, "x": {"error": "nested", "y": 1}})
    assert read_as.extra == {"x": {"error": "nested", "y": 1}}
    assert any("odd" in warning for warning in read_as.warnings)


@pytest.mark.parametrize(
    "kind",
    ["text/html", "text/plain", "json", "application/json;charset=utf-8;", "application/vnd.x+json", ""],
)
def test_content_type_does_not_matter(kind: str) -> None:
    """JSON is read under any Content-Type."""
    assert answered(TOKENS, headers={"Content-Type": kind}).access_token == Secret("a2")


def test_a_byte_order_mark_is_tolerated() -> None:
    """UTF-8 with a BOM is read."""
    assert answered(b"\xef\xbb\xbf" + json.dumps(TOKENS).encode()).access_token == Secret("a2")


def test_the_last_of_doubled_members_counts() -> None:
    """The last of repeated members counts, for all members, and a warning names them."""
    read_as = answered(
        b'{"access_token":"a","access_token":"b","refresh_token":"r1","refresh_token":"r2","x":{"y":1,"y":2}}'
    )
    assert (read_as.access_token, read_as.refresh_token, read_as.extra) == (Secret("b"), Secret("r2"), {"x": {"y": 2}})
    assert [warning.split()[0] for warning in read_as.warnings] == ["access_token", "refresh_token"]


def test_what_is_no_json_number_becomes_null() -> None:
    """NaN and Infinity neither reach callers nor become a lifetime."""
    read_as = answered(b'{"access_token":"a2","quota":NaN,"x":[-Infinity,1e999],"expires_in":Infinity,"y":1}')
    assert read_as.extra == {"quota": None, "x": [None, None], "y": 1}
    assert read_as.lifetime_ms is None
    strict(Answered(read_as))


@pytest.mark.parametrize("token", [None, "", 7, ["a"], "a b", "a\n", "a\x00", "\u20ac", "a\u00a0b", "a\x85", "\ud800"])
def test_unusable_access_token_does_not_lose_the_refresh_token(token: object) -> None:
    """A response whose access token is unusable still holds the only valid refresh token: it is kept."""
    read_as = answered({**TOKENS, "access_token": token})
    assert (read_as.access_token, read_as.refresh_token) == (None, Secret("r2-new-refresh-token"))
    assert read_as.problem


def test_error_beside_a_new_refresh_token_does_not_lose_it() -> None:
    """A 2xx with `error` but with a refresh token that the request did not carry is kept."""
    read_as = answered({"error": "partial", "refresh_token": "r2"})
    assert read_as.refresh_token == Secret("r2")
    assert "partial" in read_as.warnings[0]


def test_latin_1_access_token_is_usable() -> None:
    """A token that HTTP can carry is accepted."""
    assert answered({"access_token": "é~+/=:"}).access_token == Secret("é~+/=:")


@pytest.mark.parametrize(("token", "warned"), [(None, 0), ("", 0), (7, 1), ({"a": 1}, 1), ("r1", 0)])
def test_refresh_token_that_is_none_keeps_the_old_one(token: object, warned: int) -> None:
    """Null, an empty text and another type mean: keep the old refresh token."""
    read_as = answered({"access_token": "a2", "refresh_token": token})
    assert read_as.refresh_token == (Secret("r1") if token == "r1" else None)
    assert len(read_as.warnings) == warned


@pytest.mark.parametrize(
    ("kind", "expected"), [("bearer", "bearer"), (None, "Bearer"), (7, "Bearer"), ("a\r\nb", "Bearer")]
)
def test_token_type(kind: object, expected: str) -> None:
    """`token_type` can be put in front of the token, or is Bearer."""
    assert answered({**TOKENS, "token_type": kind}).token_type == expected


def test_our_names_and_other_tokens_are_never_passed_on() -> None:
    """Reserved names, refresh and ID tokens at any depth, and texts that repeat a secret are not passed on."""
    foreign = dict.fromkeys(RESERVED, "foreign")
    body = {
        **foreign,
        **TOKENS,
        "refreshToken": "r2-new-refresh-token",
        "hint": "was r1-sent-refresh-token before",
        "user": {"refresh_token": "x", "id_token": "y", "name": "n"},
        "list": ["client-secret", "kept"],
    }
    assert answered(body).extra == {"user": {"name": "n"}, "list": ["kept"]}


@pytest.mark.parametrize("blank", ["", " ", "\t", "\r\n", "\u00a0", "\ufeff", "\u200b", "\x00", " \u00a0\n"])
def test_a_blank_refresh_token_replaces_none(blank: str) -> None:
    """A refresh token that is blank counts as absent (RFC 6749 appendix A.17), so the old one stays."""
    answer = answered({**TOKENS, "refresh_token": blank})
    assert answer.refresh_token is None
    assert bool(blank) == ("refresh_token is blank: the old one is kept" in answer.warnings)


@pytest.mark.parametrize(
    ("before", "after"), [("", "\n"), ("", "\r\n"), ("\ufeff", ""), ("\u00a0", "\u00a0"), ("", "\x00")]
)
def test_what_no_refresh_token_has_at_its_ends_is_cut(before: str, after: str) -> None:
    """Line ends, no-break spaces and byte order marks around a refresh token are no part of it, and that is said."""
    answer = answered({**TOKENS, "refresh_token": before + "r2-new" + after})
    assert answer.refresh_token == Secret("r2-new")
    assert any("at its ends" in warning for warning in answer.warnings)


@pytest.mark.parametrize("token", ["r2 ", " r2", "r 2"])
def test_a_space_is_part_of_a_refresh_token(token: str) -> None:
    """RFC 6749 appendix A.17 allows U+0020 in a refresh token: one that it allows stays as it is."""
    assert answered({**TOKENS, "refresh_token": token}).refresh_token == Secret(token)


def test_blanks_inside_cost_no_more_than_their_number() -> None:
    """A quarter of a megabyte of blanks inside a refresh token is trimmed at once, not in minutes."""
    token = "a" + "\u00a0" * 250_000 + "b\n"
    assert trim(token) == token[:-1]
