"""Which outcome follows from status and body, and what an error shows the operator: codes, details, Retry-After."""

from __future__ import annotations

import base64
import json
from email.utils import formatdate
from typing import Any
from urllib.parse import quote

import pytest

from broker.model import Answered, Busy, InvalidClient, InvalidGrant, Outcome, Rejected, Unknown
from broker.providers import token_response
from broker.secret import Secret

from .reading import NOW, OAUTH2, TOKENS, V3, read, strict


def test_form_encoded_error_of_status_200() -> None:
    """GitHub's error, a form with status 200, is judged by its code."""
    outcome = read(b"error=bad_refresh_token&error_description=The+token+is+incorrect.")
    assert outcome == InvalidGrant("bad_refresh_token", "The token is incorrect.")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        pytest.param(400, {"error": "invalid_grant"}, InvalidGrant, id="invalid_grant"),
        pytest.param(401, {"error": "invalid_grant"}, InvalidGrant, id="invalid_grant as 401"),
        pytest.param(403, {"error": "invalid_grant"}, InvalidGrant, id="invalid_grant as 403"),
        pytest.param(401, {"error": "invalid_client"}, InvalidClient, id="invalid_client"),
        pytest.param(400, {"error": "invalid_client"}, InvalidClient, id="invalid_client as 400"),
        pytest.param(401, {"error": "unauthorized_client"}, InvalidClient, id="unauthorized_client"),
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
        pytest.param(302, {"error": "invalid_grant"}, Rejected, id="302"),
        pytest.param(307, b"", Rejected, id="307"),
        pytest.param(308, b"", Rejected, id="308"),
        pytest.param(400, b"", Rejected, id="empty 400"),
        pytest.param(401, {}, Rejected, id="401 without a code"),
        pytest.param(403, b"<html>no", Rejected, id="web firewall"),
        pytest.param(404, b"", Rejected, id="404"),
        pytest.param(400, {"error": "invalid_request"}, Rejected, id="invalid_request"),
        pytest.param(
            400,
            {"error": "invalid_request", "expires_in": 0, "access_token": ""},
            Rejected,
            id="invalid_request beside an empty token",
        ),
        pytest.param(401, {"error": {"code": "invalid_grant", "message": "x"}}, InvalidGrant, id="error is an object"),
        pytest.param(401, {"error": ["x"]}, Rejected, id="error is a list"),
        pytest.param(401, {"error": None}, Rejected, id="error is null"),
        pytest.param(401, {"error": {"code": "invalid_client"}}, InvalidClient, id="nested invalid_client"),
        pytest.param(200, {"error": "invalid_grant"}, InvalidGrant, id="200 invalid_grant"),
        pytest.param(200, {"error": "slow_down", "access_token": ""}, Busy, id="200 slow_down"),
        pytest.param(200, {"error": "invalid_client"}, InvalidClient, id="200 invalid_client"),
        pytest.param(200, {"error": {"code": 7}}, Rejected, id="200 error object"),
        pytest.param(200, {"error": "x", "refresh_token": "r1-sent-refresh-token"}, Rejected, id="200 error with echo"),
        pytest.param(204, b"", Unknown, id="204"),
        pytest.param(200, b"", Unknown, id="empty"),
        pytest.param(200, b"<html>Log in</html>", Unknown, id="login page"),
        pytest.param(200, b"access_token=a%ff", Unknown, id="form that is not UTF-8"),
        pytest.param(200, b"x=y", Unknown, id="form without tokens"),
        pytest.param(200, b"<a href='?error=x&access_token=y'>", Unknown, id="page that looks like a form"),
        pytest.param(200, b'{"access_token":"a2","refresh_token":"r\xff2"}', Answered, id="not UTF-8"),
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
    """Each line of the outcome table holds, in every odd form that servers have sent."""
    outcome = read(body, status)
    assert type(outcome) is expected
    strict(outcome)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        pytest.param(400, {"error": "invalid_request"}, "invalid_request", id="invalid_request"),
        pytest.param(401, {"error": {"code": "invalid_grant"}}, "invalid_grant", id="error is an object"),
        pytest.param(401, {"error": ["x"]}, "x", id="error is a list"),
        pytest.param(401, {"error": None}, "http_401", id="error is null"),
        pytest.param(401, {"error": {"code": 5}}, "http_401", id="error is an object without words"),
        pytest.param(403, b"<html>", "http_403", id="no JSON"),
        pytest.param(302, {"error": "x"}, "http_302", id="redirect"),
        pytest.param(400, {"error": "a\nb\x00é" + "x" * 99}, "a?b??" + "x" * 59, id="bounded and printable"),
        pytest.param(200, b"no", "not_json", id="not JSON"),
        pytest.param(200, b"\xff", "not_utf8", id="not UTF-8"),
        pytest.param(204, b"", "empty", id="empty 204"),
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
    """A code is the provider's if it sent one, in bounded printable ASCII, else it says what was wrong."""
    outcome = read(body, status)
    assert not isinstance(outcome, Answered)
    if code == "http_200":
        assert isinstance(outcome, Rejected)
    assert outcome.code == code


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (401, "invalid_grant", InvalidGrant),
        (401, "", InvalidGrant),
        (401, "whatever", InvalidGrant),
        (401, "invalid_client", InvalidClient),
        (401, "unauthorized_client", InvalidClient),
        (400, "invalid_request", Rejected),
    ],
)
def test_dead_statuses_of_a_dialect(status: int, error: str, expected: type[Outcome]) -> None:
    """Eagle Eye V3's 401 means a dead refresh token, unless its code says that it means the client."""
    outcome = read({"error": error}, status, V3)
    assert type(outcome) is expected
    if isinstance(outcome, InvalidGrant | InvalidClient):
        assert outcome.sure == (error in {"invalid_grant", "invalid_client"}), "evidence decides the others"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("30", 30_000, id="seconds"),
        pytest.param("1.5", 1_500, id="fraction"),
        pytest.param("-1", 1_000, id="negative"),
        pytest.param("0", 1_000, id="zero"),
        pytest.param("31536000", 86_400_000, id="a year"),
        pytest.param("9" * 5_000, 86_400_000, id="beyond all numbers"),
        pytest.param("soon", None, id="word"),
        pytest.param("", None, id="empty"),
        pytest.param("nan", None, id="nan"),
        pytest.param("10, 20", 20_000, id="twice"),
        pytest.param(formatdate(NOW / 1000 + 90, usegmt=True), 90_000, id="date"),
        pytest.param(formatdate(NOW / 1000 - 90, usegmt=True), 1_000, id="date in the past"),
        pytest.param(
            ", ".join(formatdate(NOW / 1000 + ahead, usegmt=True) for ahead in (10, 90)), 90_000, id="date twice"
        ),
        pytest.param("Wed, 99 Foo 9999 99:99:99 GMT", None, id="garbled date"),
        pytest.param("Wednesday, 01-Jan-70 00:00:00 GMT", 1_000, id="RFC 850 date"),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(value: str, expected: int | None, status: int) -> None:
    """Whatever Retry-After holds, it is at least a second, at most a day, and never raises."""
    outcome = read(b"", status, headers={"Retry-After": value})
    assert isinstance(outcome, Busy)
    assert outcome.retry_after_ms == expected


def test_date_is_relative_to_the_servers_clock() -> None:
    """A date is compared with the response's own Date, not with this host's clock."""
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
        pytest.param(400, b'{"error":"invalid_grant"}', InvalidGrant, id="a whole refusal"),
        pytest.param(503, b"", Busy, id="503"),
        pytest.param(302, b"", Rejected, id="302"),
        pytest.param(500, b"", Unknown, id="500"),
    ],
)
def test_answer_that_was_cut_off(status: int, body: bytes, expected: type[Outcome]) -> None:
    """A cut response counts if its JSON is complete or its status is clear; else it is unknown, with the reason."""
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
    outcome = token_response.read(400, {}, body, dialect=OAUTH2, now=NOW, sent=[Secret(SECRET)])
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
    """A Location may carry a session: it is nowhere in the outcome."""
    outcome = read({"error_description": "see https://as.test/?s=1"}, 302, headers={"Location": "https://as.test/?s=1"})
    assert "as.test" not in repr(outcome)


def test_refusals_of_apis_are_described() -> None:
    """CameraManager's API errors, `{code, title, detail}`, are shown to the operator."""
    assert read({"code": 7, "title": "t", "detail": "no such user"}, 404) == Rejected("http_404", "no such user")
