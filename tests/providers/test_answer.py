"""What an answer of a token endpoint means: tables over status, headers and body, and a fuzz."""

from __future__ import annotations

import base64
import dataclasses
import json
from email.utils import formatdate
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.model import Answer, Answered, Busy, Dead, Outcome, Registration, Rejected, Unknown
from broker.providers import answer
from broker.providers.dialects import Dialect
from broker.secret import Secret
from broker.settings import Provider

NOW = 1_800_000_000_000
SENT = (Secret("r1-sent-refresh-token"), Secret("client-secret"))
OAUTH2 = Dialect.of("acme", Provider(kind="oauth2", client_id="id", token_endpoint="https://as.test/token"))
V3 = Dialect.of("v3", Provider(kind="een-v3", client_id="id"))
TOKENS = {"access_token": "a2", "refresh_token": "r2-new-refresh-token", "expires_in": 3600}


def read(
    body: bytes | dict[str, Any] | list[Any] | None,
    status: int = 200,
    dialect: Dialect = OAUTH2,
    fault: str | None = None,
    headers: dict[str, str] | None = None,
) -> Outcome:
    """Read *body* as an answer that came at NOW."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    return answer.read(status, headers or {}, data, dialect=dialect, now=NOW, sent=SENT, fault=fault)


def answered(body: bytes | dict[str, Any], **more: Any) -> Answer:
    """Read *body* as a success."""
    outcome = read(body, **more)
    assert isinstance(outcome, Answered), outcome
    return outcome.answer


def strict(outcome: Outcome) -> str:
    """The outcome as strict JSON in UTF-8, as `api` and pub/sub would write it."""

    def plain(value: object) -> object:
        return value.reveal().encode("utf-8", "surrogatepass").hex() if isinstance(value, Secret) else value

    told = outcome.answer if isinstance(outcome, Answered) else outcome
    shown = {member.name: getattr(told, member.name) for member in dataclasses.fields(told)}
    text = json.dumps(shown, allow_nan=False, ensure_ascii=False, default=plain)
    text.encode()
    json.loads(text, parse_constant=pytest.fail)
    return text


def test_whole_answer_is_read() -> None:
    """Every member of CameraManager's documented answer arrives where it belongs."""
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
    assert read_as == Answer(
        access_token=Secret("0a1b:10003"),
        refresh_token=Secret("9f8e:10003"),
        token_type="bearer",
        lifetime_ms=43_199_000,
        refresh_in_ms=1_800_000,
        scope="write",
        extra={"httpsBaseUrl": {"hostname": "api.c001.test", "port": 443}},
    )


@pytest.mark.parametrize(
    ("members", "life_ms", "warned"),
    [
        pytest.param({"expires_in": 3600}, 3_600_000, False, id="integer"),
        pytest.param({"expires_in": 3599.7}, 3_599_700, False, id="T03 fraction"),
        pytest.param({"expires_in": 3600.0}, 3_600_000, False, id="T03 point zero"),
        pytest.param({"expires_in": 3.6e3}, 3_600_000, False, id="T03 exponent"),
        pytest.param({"expires_in": "3600"}, 3_600_000, False, id="text"),
        pytest.param({"expires_in": " 3599.5 "}, 3_599_500, False, id="text with fraction and blanks"),
        pytest.param({"expires_in": 0}, None, True, id="T05 zero"),
        pytest.param({"expires_in": -1}, None, True, id="negative"),
        pytest.param({"expires_in": 0.0001}, None, True, id="less than a millisecond"),
        pytest.param({"expires_in": True}, None, True, id="boolean"),
        pytest.param({"expires_in": {"x": 1}}, None, True, id="object"),
        pytest.param({"expires_in": "soon"}, None, True, id="word"),
        pytest.param({"expires_in": "٣٦٠٠"}, None, True, id="digits of another script"),
        pytest.param({"expires_in": None}, None, False, id="null"),
        pytest.param({}, None, False, id="absent"),
        pytest.param({"expires_in": NOW // 1000 + 3600}, 3_600_000, True, id="T09 epoch seconds"),
        pytest.param({"expires_in": NOW + 3_600_000}, 3_600_000, True, id="T09 epoch milliseconds"),
        pytest.param({"expires_in": 50 * 365 * 86400}, None, True, id="T09 fifty years"),
        pytest.param({"expires_in": NOW // 1000 - 5}, None, True, id="T09 epoch in the past"),
        pytest.param({"expires_on": str(NOW // 1000 + 3600)}, 3_600_000, True, id="T09 only expires_on, a text"),
        pytest.param({"expires": 3600}, 3_600_000, True, id="T09 only expires"),
        pytest.param({"expires_in": 60, "expires_on": NOW}, 60_000, False, id="T09 expires_in before expires_on"),
        pytest.param({"expires_in": "soon", "expires": 60}, 60_000, True, id="T09 expires_in unreadable"),
    ],
)
def test_lifetime(members: dict[str, Any], life_ms: int | None, warned: bool) -> None:
    """A lifetime is read in any dress, and what is not to be believed is None and warned of."""
    read_as = answered({"access_token": "a2", **members})
    assert read_as.lifetime_ms == life_ms
    assert bool(read_as.warnings) == warned


def test_c10_foreign_epoch_is_measured_on_the_servers_clock() -> None:
    """With our clock ten minutes ahead a point in time still gives the life the server meant (C10, T09)."""
    server = NOW // 1000 - 600
    read_as = answered(
        {"access_token": "a2", "expires_on": server + 300}, headers={"Date": formatdate(server, usegmt=True)}
    )
    assert read_as.lifetime_ms == 300_000


def test_t09_foreign_times_travel_but_never_replace_ours() -> None:
    """`expires_on` is passed on, `expires_at` is ours alone (T09)."""
    read_as = answered({**TOKENS, "expires_on": 1, "expires_at": 2})
    assert read_as.extra == {"expires_on": 1}


@pytest.mark.parametrize("value", ["soon", 0, -3, True, 10**30, []])
def test_refresh_in_that_is_none_is_dropped_with_a_warning(value: object) -> None:
    """A hint that cannot be followed does not steer the schedule."""
    read_as = answered({**TOKENS, "refresh_in": value})
    assert (read_as.refresh_in_ms, len(read_as.warnings)) == (None, 1)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"access_token=a2&refresh_token=r2&expires=3600", id="T10 plain"),
        pytest.param(b"access_token=a%32&refresh_token=r2&expires=3600\n", id="T10 percent-encoded"),
    ],
)
def test_t10_form_encoded_success(body: bytes) -> None:
    """A success that comes as a form is one (T10)."""
    read_as = answered(body, headers={"content-type": "text/plain"})
    assert (read_as.access_token, read_as.refresh_token, read_as.lifetime_ms) == (Secret("a2"), Secret("r2"), 3_600_000)


def test_form_encoded_error_of_status_200() -> None:
    """GitHub's refusal, a form with status 200, is judged by its code."""
    outcome = read(b"error=bad_refresh_token&error_description=The+token+is+incorrect.")
    assert outcome == Rejected("bad_refresh_token", "The token is incorrect.")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        pytest.param(400, {"error": "invalid_grant"}, Dead, id="invalid_grant"),
        pytest.param(401, {"error": "invalid_grant"}, Dead, id="invalid_grant as 401"),
        pytest.param(403, {"error": "invalid_grant"}, Dead, id="invalid_grant as 403"),
        pytest.param(401, {"error": "invalid_client"}, Registration, id="invalid_client"),
        pytest.param(400, {"error": "invalid_client"}, Registration, id="invalid_client as 400"),
        pytest.param(401, {"error": "unauthorized_client"}, Registration, id="unauthorized_client"),
        pytest.param(400, {"error": "temporarily_unavailable"}, Busy, id="temporarily_unavailable"),
        pytest.param(400, {"error": "slow_down"}, Busy, id="slow_down"),
        pytest.param(500, {"error": "temporarily_unavailable"}, Busy, id="temporarily_unavailable as 500"),
        pytest.param(429, {}, Busy, id="429"),
        pytest.param(503, b"<html>", Busy, id="503"),
        pytest.param(500, {"error": "invalid_grant"}, Unknown, id="the loser of a race gets 500"),
        pytest.param(502, b"", Unknown, id="502"),
        pytest.param(504, b"", Unknown, id="504"),
        pytest.param(599, b"", Unknown, id="599"),
        pytest.param(999, b"", Unknown, id="999"),
        pytest.param(101, b"", Unknown, id="101"),
        pytest.param(302, {"error": "invalid_grant"}, Rejected, id="T33 302"),
        pytest.param(307, b"", Rejected, id="T33 307"),
        pytest.param(308, b"", Rejected, id="T33 308"),
        pytest.param(400, b"", Rejected, id="empty 400"),
        pytest.param(401, {}, Rejected, id="401 without a code"),
        pytest.param(403, b"<html>no", Rejected, id="T35 web firewall"),
        pytest.param(404, b"", Rejected, id="404"),
        pytest.param(400, {"error": "invalid_request"}, Rejected, id="T15 invalid_request"),
        pytest.param(400, {"error": "invalid_request", "expires_in": 0, "access_token": ""}, Rejected, id="T16"),
        pytest.param(401, {"error": {"code": "invalid_grant", "message": "x"}}, Rejected, id="T13 object"),
        pytest.param(401, {"error": ["x"]}, Rejected, id="T13 list"),
        pytest.param(401, {"error": None}, Rejected, id="T13 null"),
        pytest.param(401, {"error": {"code": "invalid_client"}}, Registration, id="nested invalid_client"),
        pytest.param(200, {"error": "invalid_grant"}, Dead, id="200 invalid_grant"),
        pytest.param(200, {"error": "slow_down", "access_token": ""}, Busy, id="200 slow_down"),
        pytest.param(200, {"error": "invalid_client"}, Registration, id="200 invalid_client"),
        pytest.param(200, {"error": {"code": 7}}, Rejected, id="200 error object"),
        pytest.param(200, {"error": "x", "refresh_token": "r1-sent-refresh-token"}, Rejected, id="200 error with echo"),
        pytest.param(204, b"", Unknown, id="T28 204"),
        pytest.param(200, b"", Unknown, id="T28 empty"),
        pytest.param(200, b"<html>Log in</html>", Unknown, id="T21 login page"),
        pytest.param(200, b"access_token=a%ff", Unknown, id="T25 form that is not UTF-8"),
        pytest.param(200, b"x=y", Unknown, id="form without tokens"),
        pytest.param(200, b"<a href='?error=x&access_token=y'>", Unknown, id="T21 page that looks like a form"),
        pytest.param(200, b'{"access_token":"a2","refresh_token":"r\xff2"}', Answered, id="T25 not UTF-8"),
        pytest.param(200, b"[1]", Unknown, id="list"),
        pytest.param(200, b"null", Unknown, id="null"),
        pytest.param(200, {"ok": True}, Unknown, id="no tokens"),
        pytest.param(200, {"access_token": "a b"}, Unknown, id="unusable, no refresh token"),
        pytest.param(200, None, Unknown, id="oversized"),
        pytest.param(400, None, Rejected, id="oversized refusal"),
        pytest.param(503, None, Busy, id="oversized 503"),
    ],
)
def test_outcome(status: int, body: Any, expected: type[Outcome]) -> None:
    """Each line of the outcome table, and every odd dress in which servers have said it."""
    outcome = read(body, status)
    assert type(outcome) is expected
    strict(outcome)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        pytest.param(400, {"error": "invalid_request"}, "invalid_request", id="T15"),
        pytest.param(401, {"error": {"code": "invalid_grant"}}, "invalid_grant", id="T13 object"),
        pytest.param(401, {"error": ["x"]}, "x", id="T13 list"),
        pytest.param(401, {"error": None}, "http_401", id="T13 null"),
        pytest.param(401, {"error": {"code": 5}}, "http_401", id="T13 object without words"),
        pytest.param(403, b"<html>", "http_403", id="no JSON"),
        pytest.param(302, {"error": "x"}, "http_302", id="redirect"),
        pytest.param(400, {"error": "a\nb\x00é" + "x" * 99}, "a?b??" + "x" * 59, id="bounded and printable"),
        pytest.param(200, b"no", "not_json", id="T10 not JSON"),
        pytest.param(200, b"\xff", "not_utf8", id="T25"),
        pytest.param(204, b"", "empty", id="T28"),
        pytest.param(200, b"3", "not_an_object", id="no object"),
        pytest.param(200, None, "oversized", id="oversized"),
        pytest.param(200, {}, "no_access_token", id="no token"),
        pytest.param(200, {"access_token": "a\n"}, "unusable_access_token", id="unusable"),
        pytest.param(500, {"error": "server_error"}, "http_500", id="500"),
        pytest.param(200, {"error": {}, "access_token": ""}, "no_access_token", id="200 empty error"),
        pytest.param(200, {"error": [1]}, "http_200", id="200 error without words"),
    ],
)
def test_code(status: int, body: Any, code: str) -> None:
    """Codes are the provider's where it has one, bounded printable ASCII, else say what was wrong."""
    outcome = read(body, status)
    assert not isinstance(outcome, Answered)
    if code == "http_200":
        assert isinstance(outcome, Rejected)
    assert outcome.code == code


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (401, "invalid_grant", Dead),
        (401, "", Dead),
        (401, "whatever", Dead),
        (401, "invalid_client", Registration),
        (401, "unauthorized_client", Registration),
        (400, "invalid_request", Rejected),
    ],
)
def test_dead_statuses_of_a_dialect(status: int, error: str, expected: type[Outcome]) -> None:
    """Eagle Eye V3's 401 means a dead refresh token, unless its code says that it means us."""
    assert type(read({"error": error}, status, V3)) is expected


@pytest.mark.parametrize(
    ("scope", "expected"),
    [(["a", "b"], "a b"), ([1, "a"], "a"), ([], None), (None, None), ("", None), ({"x": 1}, None), (" a  b ", "a b")],
)
def test_t19_scope_is_a_text_or_absent(scope: object, expected: str | None) -> None:
    """Whatever a server makes of `scope`, it is one text or None (T19)."""
    assert answered({**TOKENS, "scope": scope}).scope == expected


@pytest.mark.parametrize(
    "kind",
    ["text/html", "text/plain", "json", "application/json;charset=utf-8;", "application/vnd.x+json", ""],
)
def test_t22_content_type_does_not_matter(kind: str) -> None:
    """Good JSON is good JSON under any Content-Type (T22)."""
    assert answered(TOKENS, headers={"Content-Type": kind}).access_token == Secret("a2")


def test_t25_a_byte_order_mark_is_tolerated() -> None:
    """UTF-8 with a BOM is read (T25)."""
    assert answered(b"\xef\xbb\xbf" + json.dumps(TOKENS).encode()).access_token == Secret("a2")


def test_t36_the_last_of_doubled_members_counts() -> None:
    """One rule for all members, and a warning that names them (T36)."""
    read_as = answered(
        b'{"access_token":"a","access_token":"b","refresh_token":"r1","refresh_token":"r2","x":{"y":1,"y":2}}'
    )
    assert (read_as.access_token, read_as.refresh_token, read_as.extra) == (Secret("b"), Secret("r2"), {"x": {"y": 2}})
    assert [warning.split()[0] for warning in read_as.warnings] == ["access_token", "refresh_token"]


def test_t37_what_is_no_json_number_becomes_null() -> None:
    """NaN and Infinity neither reach callers nor become a lifetime (T37)."""
    read_as = answered(b'{"access_token":"a2","quota":NaN,"x":[-Infinity,1e999],"expires_in":Infinity,"y":1}')
    assert read_as.extra == {"quota": None, "x": [None, None], "y": 1}
    assert read_as.lifetime_ms is None
    strict(Answered(read_as))


@pytest.mark.parametrize("name", ["expires_in", "refresh_in", "quota", "expires_on"])
@pytest.mark.parametrize("digits", [400, 5_000, 100_000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_huge_numbers(name: str, digits: int, sign: str) -> None:
    """A number of thousands of digits neither raises nor is believed."""
    read_as = answered(f'{{"access_token":"a2","{name}":{sign}{"9" * digits}}}'.encode())
    assert (read_as.lifetime_ms, read_as.refresh_in_ms) == (None, None)
    strict(Answered(read_as))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [40, 500, 5_000, 50_000])
def test_deep_nesting(opening: str, depth: int) -> None:
    """Bottomless JSON never raises, and what is passed on is shallow."""
    closing = "]" if opening == "[" else "}"
    body = f'{{"access_token":"a2","x":{opening * depth}1{closing * depth}}}'
    strict(read(body.encode()))


def test_lone_surrogates() -> None:
    """Half a surrogate pair in extra members, scope or codes breaks nobody's UTF-8; in a refresh token it is kept."""
    body = b'{"access_token":"a2","refresh_token":"r\\ud800","scope":"\\udc00 b","x\\ud800":["\\ud83d\\ude00\\udfff"]}'
    read_as = answered(body)
    assert read_as.refresh_token == Secret("r\ud800")
    assert read_as.extra == {"x\ufffd": ["😀\ufffd"]}
    strict(Answered(read_as))
    strict(read(b'{"error":"\\ud800","error_description":"\\ud800"}', 400))


@pytest.mark.parametrize("token", [None, "", 7, ["a"], "a b", "a\n", "a\x00", "\u20ac", "a\u00a0b", "a\x85", "\ud800"])
def test_unusable_access_token_does_not_lose_the_refresh_token(token: object) -> None:
    """Persist first: an answer whose access token is of no use still carries the only good refresh token."""
    read_as = answered({**TOKENS, "access_token": token})
    assert (read_as.access_token, read_as.refresh_token) == (None, Secret("r2-new-refresh-token"))
    assert read_as.problem


def test_error_beside_a_new_refresh_token_does_not_lose_it() -> None:
    """A 2xx that says `error` but brings a refresh token we have not sent is kept."""
    read_as = answered({"error": "partial", "refresh_token": "r2"})
    assert read_as.refresh_token == Secret("r2")
    assert "partial" in read_as.warnings[0]


def test_latin_1_access_token_is_usable() -> None:
    """What HTTP can carry is not refused."""
    assert answered({"access_token": "é~+/=:"}).access_token == Secret("é~+/=:")


@pytest.mark.parametrize(("token", "warned"), [(None, 0), ("", 0), (7, 1), ({"a": 1}, 1), ("r1", 0)])
def test_refresh_token_that_is_none_keeps_the_old_one(token: object, warned: int) -> None:
    """Null, empty and what is no text mean: keep what you have."""
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
    """Reserved names, refresh and ID tokens at any depth, and whatever repeats a secret stay here."""
    foreign = dict.fromkeys(answer.RESERVED, "foreign")
    body = {
        **foreign,
        **TOKENS,
        "refreshToken": "r2-new-refresh-token",
        "hint": "was r1-sent-refresh-token before",
        "user": {"refresh_token": "x", "id_token": "y", "name": "n"},
        "list": ["client-secret", "kept"],
    }
    assert answered(body).extra == {"user": {"name": "n"}, "list": ["kept"]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("30", 30_000, id="seconds"),
        pytest.param("1.5", 1_500, id="T40 fraction"),
        pytest.param("-1", 1_000, id="T40 negative"),
        pytest.param("0", 1_000, id="T40 zero"),
        pytest.param("31536000", 86_400_000, id="T40 a year"),
        pytest.param("9" * 5_000, 86_400_000, id="T40 beyond all numbers"),
        pytest.param("soon", None, id="T40 word"),
        pytest.param("", None, id="T40 empty"),
        pytest.param("nan", None, id="T40 nan"),
        pytest.param("10, 20", 20_000, id="T40 twice"),
        pytest.param(formatdate(NOW / 1000 + 90, usegmt=True), 90_000, id="T40 date"),
        pytest.param(formatdate(NOW / 1000 - 90, usegmt=True), 1_000, id="T40 date in the past"),
        pytest.param(
            ", ".join(formatdate(NOW / 1000 + ahead, usegmt=True) for ahead in (10, 90)), 90_000, id="T40 date twice"
        ),
        pytest.param("Wed, 99 Foo 9999 99:99:99 GMT", None, id="T40 garbled date"),
        pytest.param("Wednesday, 01-Jan-70 00:00:00 GMT", 1_000, id="T40 RFC 850 date"),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_t40_retry_after(value: str, expected: int | None, status: int) -> None:
    """Whatever stands in Retry-After is at least a second, at most a day, and never raises (T40)."""
    outcome = read(b"", status, headers={"Retry-After": value})
    assert isinstance(outcome, Busy)
    assert outcome.retry_after_ms == expected


def test_t40_date_is_relative_to_the_servers_clock() -> None:
    """A date is compared with the answer's own Date, not with our clock (T40, C10)."""
    server = NOW / 1000 + 7_200
    outcome = read(
        b"", 503, headers={"Date": formatdate(server, usegmt=True), "Retry-After": formatdate(server + 90, usegmt=True)}
    )
    assert outcome == Busy("http_503", "HTTP 503, no Content-Type", 90_000)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        pytest.param(200, json.dumps(TOKENS).encode(), Answered, id="whole all the same"),
        pytest.param(200, b'{"access_token":"a2"', Unknown, id="half"),
        pytest.param(200, b"access_token=a2&refresh_token=r", Unknown, id="a form has no end"),
        pytest.param(200, b"", Unknown, id="nothing"),
        pytest.param(400, b'{"error":"invalid_gr', Unknown, id="half a refusal"),
        pytest.param(400, b'{"error":"invalid_grant"}', Dead, id="a whole refusal"),
        pytest.param(503, b"", Busy, id="503"),
        pytest.param(302, b"", Rejected, id="302"),
        pytest.param(500, b"", Unknown, id="500"),
    ],
)
def test_answer_that_was_cut_off(status: int, body: bytes, expected: type[Outcome]) -> None:
    """A cut answer counts if its JSON is whole or its status says all; else it is unknown, and why."""
    outcome = read(body, status, fault="truncated")
    assert type(outcome) is expected
    if isinstance(outcome, Unknown) and status < 500:
        assert outcome.code == "truncated"


SECRET = "s/ecret+token with=ä&%41"


@pytest.mark.parametrize(
    "echo",
    [
        pytest.param(SECRET, id="plain"),
        pytest.param(quote(SECRET), id="percent"),
        pytest.param(quote(SECRET, safe=""), id="percent, all"),
        pytest.param(quote(SECRET, safe="").lower(), id="percent, lower case"),
        pytest.param(quote(SECRET).replace("%20", "+"), id="plus"),
        pytest.param(quote(quote(SECRET)), id="percent twice"),
        pytest.param(base64.b64encode(SECRET.encode()).decode(), id="base64"),
        pytest.param(base64.urlsafe_b64encode(SECRET.encode()).decode(), id="base64url"),
        pytest.param(base64.b64encode(b"i:" + SECRET.encode() + b"x").decode(), id="base64 within, offset 2"),
        pytest.param(base64.b64encode(b"i" + SECRET.encode()).decode(), id="base64 within, offset 1"),
    ],
)
def test_no_secret_that_was_sent_is_shown(echo: str) -> None:
    """An echoed secret is cut out of detail and code, whatever its encoding."""
    body = json.dumps({"error": echo, "error_description": f"refresh token <{echo}> is bad"}).encode()
    outcome = answer.read(400, {}, body, dialect=OAUTH2, now=NOW, sent=[Secret(SECRET)])
    assert isinstance(outcome, Rejected)
    core = base64.b64encode(SECRET.encode()).decode()[4:20]
    shown = outcome.code + outcome.detail
    assert SECRET not in shown
    assert "ecret+token" not in shown
    assert core not in shown
    assert "[secret]" in outcome.detail


def test_detail_is_bounded_and_escaped() -> None:
    """A description is at most 300 characters, and its control characters cannot steer a terminal."""
    outcome = read({"error": "x", "error_description": "a\x1b[31m\r\n\u202e" + "\U0001f600" * 500}, 400)
    assert isinstance(outcome, Rejected)
    assert outcome.detail.startswith("a\\x1b[31m\\r\\n\\u202e😀")
    assert len(outcome.detail) == 300
    assert outcome.detail.isprintable()


def test_redirect_shows_no_location() -> None:
    """A Location may carry a session: it is nowhere in the outcome (T33)."""
    outcome = read({"error_description": "see https://as.test/?s=1"}, 302, headers={"Location": "https://as.test/?s=1"})
    assert "as.test" not in repr(outcome)


def test_refusals_of_apis_are_described() -> None:
    """CameraManager's API errors, `{code, title, detail}`, are shown to the operator."""
    assert read({"code": 7, "title": "t", "detail": "no such user"}, 404) == Rejected("http_404", "no such user")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text(st.characters(categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_names = st.sampled_from([*sorted(answer.RESERVED), "error", "error_description", "expires_on", "expires", "x"])
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
    outcome = answer.read(status, headers, body, dialect=dialect, now=NOW, sent=sent, fault=fault)
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
