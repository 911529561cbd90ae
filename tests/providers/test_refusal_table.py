"""The table of refusals: every known form of an answer that brings no token, and what of it decides."""

from __future__ import annotations

import json

import pytest

from broker.model import Busy, InvalidClient, InvalidGrant, Rejected
from broker.providers import refusal
from broker.providers.refusal import Codes, holds, judge
from tests.providers.reading import OAUTH2, V3, read
from tests.providers.refusal_lines import BUSY, DEAD, LINES, REFRESH_TOKEN, Line

KINDS = {
    "dead": InvalidGrant,
    "busy": Busy,
    "registration": InvalidClient | InvalidGrant,  # a bare 401 may be either
    "rejected": InvalidClient,
    "retry": Rejected | InvalidClient,
}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.id)
def test_line(line: Line) -> None:
    """Each line is judged by what it says; what depends on other grants is left open, and no secret is shown."""
    outcome = line.read()
    assert isinstance(outcome, KINDS[line.want])
    assert REFRESH_TOKEN not in repr(outcome)
    # Open is only what the codes leave open.
    open_ = isinstance(outcome, InvalidGrant | InvalidClient) and not outcome.sure
    assert open_ == (line.id in {"unauthorized-alone", "unauthorized-all", "een-v3-401", "een-v3-all"})


def test_a_refusal_that_repeats_the_token_shows_its_words_without_it() -> None:
    """The message of an error in a list is shown, the refresh token in it is not."""
    outcome = next(line for line in LINES if line.id == "fitbit-echo").read()
    assert isinstance(outcome, InvalidGrant)
    assert outcome.code == "invalid_grant"
    assert outcome.detail.startswith("Refresh token invalid: [secret]. Visit")


PLACES = [
    {"error": "%"},
    {"error": {"code": "%"}},
    {"error": {"code": 7, "errors": [{"reason": "%"}]}},
    {"errors": [{"errorType": "%", "message": "no"}]},
    {"errors": ["%"]},
    {"status": "%"},
    {"ok": False, "reason": "%"},
    {"code": "%"},
    {"error": "Bad Request", "message": "%"},
    {"error": True, "status": 400, "message": "%: for a reason"},
    {"error": "invalid_request", "error_description": "no", "type": "%"},
]


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 422])
@pytest.mark.parametrize("place", PLACES, ids=json.dumps)
def test_a_code_counts_wherever_it_stands(place: dict[str, object], status: int) -> None:
    """At any place of a code, in any case, under any status of a success or of the client's error."""
    for codes, kind in ((DEAD, InvalidGrant), (BUSY, Busy), (["invalid_client"], InvalidClient)):
        for code in codes:
            for written in (code, code.upper(), code.title()):
                body = json.dumps(place).replace("%", written).encode()
                outcome = read(body, status)
                assert isinstance(outcome, kind), written
                assert not isinstance(outcome, InvalidGrant | InvalidClient) or outcome.sure


@pytest.mark.parametrize("status", [408, 425, 429, 503])
def test_statuses_that_ask_to_come_later(status: int) -> None:
    """They do whatever the body says."""
    for body in (b"", b"<html>", b'{"error":"invalid_grant"}', b'{"error":"invalid_client"}'):
        assert isinstance(read(body, status), Busy)


@pytest.mark.parametrize("code", ["server_error", "internal_error"])
def test_a_server_that_failed_may_have_spent_the_token(code: str) -> None:
    """With a status of 500 and above, a code of a failure does not say that nothing was redeemed."""
    assert judge(500, Codes((code,), (code,)), OAUTH2).kind == "rejected"
    assert judge(400, Codes((code,), (code,)), OAUTH2).kind == "busy"


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        (("invalid_grant", "slow_down"), "busy"),
        (("slow_down", "invalid_client"), "busy"),
        (("invalid_client", "invalid_grant"), "dead"),
        (("unauthorized_client", "invalid_client"), "registration"),
        (("unauthorized_client", "token_revoked"), "dead"),
        (("invalid_request", "token_expired"), "dead"),
        (("unauthorized_client", "invalid_request"), "unauthorized"),
        (("invalid_request",), "rejected"),
        ((), "rejected"),
    ],
)
def test_of_two_codes_the_one_that_loses_least_counts(codes: tuple[str, ...], kind: str) -> None:
    """Busy before dead, dead before the registration, that before a rejection; the order of the codes is nothing."""
    assert judge(400, Codes(codes, codes), OAUTH2).kind == kind
    assert judge(400, Codes(codes[::-1], codes[::-1]), OAUTH2).kind == kind


def test_dead_statuses_decide_only_without_a_code() -> None:
    """A status may mean the client as well, so a code goes before it."""
    assert judge(401, Codes((), ()), V3).kind == "dead_status"
    assert judge(401, Codes(("invalid_grant",), ()), V3).kind == "dead"
    assert judge(401, Codes(("invalid_client",), ()), V3).kind == "registration"
    assert judge(400, Codes((), ()), V3).kind == "rejected"


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("Too Many Requests", "you have made too many requests today", True),
        ("AADSTS70008", "AADSTS700082: expired", False),
        ("AADSTS70008", "(AADSTS70008)", True),
        ("token is invalid", "refresh_token is invalid", False),
        ("refresh_token is invalid", "REFRESH_TOKEN IS INVALID.", True),
        ("a.b", "axb", False),
    ],
)
def test_words_of_the_settings(word: str, text: str, found: bool) -> None:
    """They are looked for as a whole, in any case, letter by letter."""
    assert holds([word], text) == found


def test_bodies_without_end_are_judged_in_time() -> None:
    """Neither depth nor length of a body costs more than a bounded search."""
    deep: object = "invalid_grant"
    for _ in range(50):
        deep = {"error": [deep]}
    assert refusal.find({"error": deep}).codes == ()
    assert len(refusal.find({"error": ["x"] * 100_000}).texts) <= 100
    assert len(refusal.find({}, "x" * 1_000_000).texts[0]) <= 4_000
