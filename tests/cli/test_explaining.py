"""Explanations as a pure function, for every state and reason; what goes in is shaped by the API's own functions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta, timezone
from typing import Any

import pytest

from broker.api.routes.attempts import describe_past
from broker.api.routes.grants import describe
from broker.model import Grant, State, Token
from broker.report.attempts import DECISIONS, OUTCOMES, decision, outcome
from broker.report.explanation import Explanation, explain
from broker.report.grant_facts import FAILED, FINE, LOG_IN, TRY_AGAIN
from broker.report.times import clock, moment, span
from broker.secret import Secret
from broker.store.attempts import Attempt, Past

NOW = 1_764_072_000  # 12:00:00 UTC
MS = NOW * 1000
MINUTE = 60_000


@pytest.fixture(autouse=True)
def _local_time() -> Iterator[None]:
    """Somewhere an hour east of Greenwich."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "XXX-1"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def grant(state: State = "due", *, life: int | None = 60, soon: bool = False, **changes: Any) -> dict[str, Any]:
    """Return a described grant, its token with *life* minutes left; None: it never had one."""
    token = None
    if life is not None:
        end = MS + life * MINUTE
        token = Token("door", "acme", 5, Secret("a"), "Bearer", None, MS - 60 * MINUTE, end, MS, end)
    fields: dict[str, Any] = {
        "reauthorize_by": None,
        "failures": 0,
        "reason": None,
        "last_outcome": None,
        "last_detail": None,
        "last_at": None,
    } | changes
    made = Grant("door", "acme", 5, token, granted_at=MS, refresh_at=MS, **fields)
    return {**describe(made, state, soon=soon, now=MS)}


def past(*attempts: Attempt, **changes: Any) -> dict[str, Any]:
    """Return what is remembered; it is due in three minutes unless said otherwise."""
    fields: dict[str, Any] = {
        "under_way": None,
        "unknown_at": None,
        "next_at": MS + 3 * MINUTE,
        "fenced_until": None,
        "forgotten_at": None,
    } | changes
    return {**describe_past("door", Past(list(attempts), **fields), MS)}


def attempt(outcome: str, decided: str, error: str = "", description: str = "", **changes: Any) -> Attempt:
    """One of a minute ago."""
    fields: dict[str, Any] = {"at": MS - MINUTE, "replica": "host:1", "next_at": None} | changes
    return Attempt(outcome=outcome, decided=decided, error=error, error_description=description, **fields)


def provider(**changes: Any) -> dict[str, Any]:
    """Return a provider that answers, and forgives no token presented twice."""
    well = {
        "provider": "acme",
        "kind": "oauth2",
        "suspended": None,
        "suspended_at": None,
        "not_before": None,
        "failures": 0,
        "reuse_grace": 0.0,
        "detail": None,
    }
    return well | changes


def explained(
    described: dict[str, Any] | None, remembered: dict[str, Any] | None = None, acme: dict[str, Any] | None = None
) -> Explanation:
    """Return the explanation of `door`."""
    return explain("door", described, past() if remembered is None else remembered, acme or provider(), NOW)


def test_alive() -> None:
    """A grant that lives: until when, when it is refreshed in local time, and that nobody has to do anything."""
    said = explained(grant())
    assert said == Explanation(
        "Grant door is alive. Its access token is served until 14:00:00 (in 60 min).",
        "The broker refreshes it at 13:03:00 (in 3 min).",
        NOW + 180,
    )
    assert explained(grant(), past(next_at=MS)).next == "The broker refreshes it within seconds."
    overdue = explained(grant(), past(next_at=MS - 5 * MINUTE))
    assert "overdue since 12:55:00 (5 min ago)" in overdue.next
    assert "token-broker health" in overdue.next


def test_without_a_token() -> None:
    """Just imported, or expired while nobody refreshed: try again, and why."""
    said = explained(grant(life=None), past(next_at=MS - 1000))
    assert said.exit_code == TRY_AGAIN
    assert said.why == "Grant door waits for a token. It has no access token yet."
    said = explained(grant(life=-10))
    assert said.exit_code == TRY_AGAIN
    assert "no valid access token: the last one expired at 12:50:00 (10 min ago)" in said.why


def test_login_soon() -> None:
    """A grant whose end is near asks for a login by then, and is no failure."""
    said = explained(grant(soon=True, reauthorize_by=MS + 3 * 86_400_000))
    assert said.person == "log in again by 2025-11-28 13:00 (in 3 d): then the provider ends this grant"
    assert said.command == "token-broker login door --provider acme"
    assert said.exit_code == FINE
    idle_limit = grant(soon=False, reauthorize_by=MS + 13 * 86_400_000)
    assert explained(idle_limit).person == "nothing", "each refresh moves it"


@pytest.mark.parametrize(("life", "then"), [(60, "Then callers get 409."), (-1, "Callers get 409.")])
def test_dead(life: int, then: str) -> None:
    """A dead grant is exit 77, says what the server said, how long its token is served, and both ways out."""
    remembered = past(
        attempt("refreshed", "kept"), attempt("dead", "parked", "invalid_grant", "revoked by user"), next_at=None
    )
    said = explained(grant("parked", life=life, reason="reauthorization_required"), remembered)
    assert "acme no longer accepts the refresh token of grant door" in said.why
    assert "invalid_grant: revoked by user" in said.why
    assert said.next.endswith(then)
    assert said.command == "token-broker login door --provider acme"
    assert "`token-broker retry door` sends one more request" in said.person
    assert said.exit_code == LOG_IN


def test_rejected() -> None:
    """What a server rejected waits for a person to mend it, then for `retry`; without a past its last detail stands."""
    described = grant(
        "parked", reason="invalid_scope", last_outcome="rejected", last_detail="invalid_scope: no", last_at=MS
    )
    for remembered in (past(attempt("rejected", "parked", "invalid_scope", "no"), next_at=None), past(next_at=None)):
        said = explained(described, remembered)
        assert "invalid_scope: no" in said.why
        assert said.command == "token-broker retry door"
        assert said.exit_code == FAILED


@pytest.mark.parametrize(
    "described",
    [grant("parked", reason="sealed_with_missing_key"), grant("due", unreadable=True)],
    ids=["parked", "due"],
)
def test_unreadable(described: dict[str, Any]) -> None:
    """A key that is missing is named as that, parked already or not."""
    said = explained(described)
    assert "sealing.keys_file" in said.why
    assert said.command == "token-broker retry door"
    assert said.exit_code == FAILED


def test_leased() -> None:
    """Under way: by whom and since when, and what happens if nobody hears of it again; a log out holds it too."""
    said = explained(grant("leased"), past(under_way=(MS - 2000, "host-a:7"), next_at=MS + 2 * MINUTE))
    assert said.why == "Broker host-a:7 has had a token request for grant door under way since 12:59:58 (2 s ago)."
    assert "lease ends at 13:02:00 (in 2 min)" in said.next
    assert said.exit_code == FINE
    assert explained(grant("leased", life=-1), past(under_way=(MS, ""))).exit_code == TRY_AGAIN
    assert "for a logout" in explained(grant("leased")).why


def test_fenced() -> None:
    """While the store is fenced nobody claims: why, and until when."""
    said = explained(grant(), past(fenced_until=MS + 15_000))
    assert "Redis was restarted, failed over or restored" in said.why
    assert "13:00:15 (in 15 s)" in said.next
    assert said.next_at == NOW + 15
    assert said.exit_code == FINE
    assert explained(grant(life=-1), past(fenced_until=MS + 15_000)).exit_code == TRY_AGAIN


def test_suspended() -> None:
    """A refused registration and a breaker are different stories; both name the probe and the command."""
    refused = provider(
        suspended="invalid_client", suspended_at=NOW - 7200, not_before=NOW + 60, detail="Bad client credentials"
    )
    said = explained(grant(), acme=refused)
    assert "has refused this broker's client registration since 11:00:00 (2 h ago)" in said.why
    assert "(invalid_client: Bad client credentials)" in said.why
    assert "grant door is untouched" in said.why
    assert "The broker tries one grant at 13:01:00 (in 60 s)" in said.next
    assert "client_id and client secret" in said.person
    assert said.command == "token-broker retry --provider acme"
    assert said.exit_code == FAILED
    breaker = explained(grant(), acme=provider(suspended="invalid_scope", suspended_at=NOW, failures=0))
    assert "grant after grant" in breaker.why
    assert "within seconds" in breaker.next
    assert breaker.exit_code == FAILED


@pytest.mark.parametrize(
    ("described", "decided", "words"),
    [
        (grant(failures=1), attempt("rejected", "undecided", "http_401"), "It means this grant, or the client"),
        (grant(failures=2), attempt("rejected", "postponed_alone", "invalid_client"), "Other grants of acme succeed"),
        (grant(failures=2), attempt("rejected", "postponed", "http_403"), "does not say that the grant is dead"),
        (
            grant("parked", reason="reauthorization_required"),
            attempt("dead", "parked_alone", "http_401"),
            "so it means this grant, not the client",
        ),
        (
            grant("parked", reason="unauthorized_client"),
            attempt("rejected", "parked_alone", "unauthorized_client"),
            "so it means this grant, not the client",
        ),
    ],
    ids=["undecided", "alone, tried again", "no verdict", "dead alone", "rejected alone"],
)
def test_why_a_refusal_was_judged_so(described: dict[str, Any], decided: Attempt, words: str) -> None:
    """What other grants of the provider met is said where that decided, and when a grant is parked for good."""
    said = explained(described, past(decided, next_at=MS + MINUTE))
    assert words in said.why
    clear = past(replace(decided, decided="parked"), next_at=MS + MINUTE)
    assert words not in explained(described, clear).why


def test_a_suspension_that_may_be_the_registration() -> None:
    """A code of the provider's own, or none, is told as the registration where that was decided of it."""
    suspended = provider(suspended="http_401", suspended_at=NOW)
    doubted = past(attempt("registration", "suspended", "http_401"))
    assert "client registration" in explained(grant(), doubted, suspended).why
    assert "client_id and client secret" in explained(grant(), past(), suspended).person


def test_unknown_at_a_strict_server() -> None:
    """The grant is named, that its token may be spent, when it is presented again and why then, and the safe way."""
    said = explained(
        grant(), past(attempt("unknown", "postponed", "timeout"), unknown_at=MS - MINUTE, next_at=MS + 59 * MINUTE)
    )
    assert said.why == (
        "The response to a token request for grant door at 12:59:00 (60 s ago) never came: "
        "its refresh token may be spent."
    )
    assert said.next.startswith(
        "The broker presents it again at 13:59:00 (in 59 min), just before its access token expires"
    )
    assert "may end a grant whose spent token comes again" in said.next
    assert said.command == "token-broker login door --provider acme"
    assert said.exit_code == FINE
    dying = explained(grant(life=1), past(unknown_at=MS - MINUTE, next_at=MS))
    assert "within seconds: its access token is about to expire" in dying.next
    gone = explained(grant(life=-1), past(unknown_at=MS - MINUTE, next_at=MS))
    assert "no valid token is left to lose" in gone.next
    assert gone.exit_code == TRY_AGAIN


def test_unknown_where_it_is_forgiven() -> None:
    """Inside a grace it is presented again at once; where nothing rotates that is safe."""
    remembered = past(unknown_at=MS - 5000, next_at=MS)
    assert (
        "acme accepts a spent token again for 30 s" in explained(grant(), remembered, provider(reuse_grace=30.0)).next
    )
    safe = explained(grant(), remembered, provider(reuse_grace="forever"))
    assert "does not rotate, so that is safe" in safe.next
    assert (safe.person, safe.command) == ("nothing", None)
    over = explained(grant(), past(unknown_at=MS - 31_000, next_at=MS + MINUTE), provider(reuse_grace=30.0))
    assert "just before its access token expires" in over.next


def test_half_closed_lane() -> None:
    """A provider that fails is asked one at a time: what it said last, and the later of its time and the grant's."""
    ailing = provider(failures=4, not_before=NOW + 20, detail="connection refused")
    said = explained(grant(failures=1), past(next_at=MS + MINUTE), ailing)
    assert "4 token requests in a row brought nothing (connection refused)" in said.why
    assert "not before 13:01:00 (in 60 s)" in said.next
    assert said.exit_code == FINE
    assert explained(grant(life=-1, failures=1), past(next_at=MS), ailing).next_at == NOW + 20
    assert explained(grant(life=-1), past(next_at=MS), provider(failures=3)).next.startswith(
        "The broker tries grant door when its turn"
    )


def test_retry_after() -> None:
    """A server that named its own pause gets it, and the explanation says so."""
    said = explained(grant(failures=1), past(next_at=MS), provider(failures=1, not_before=NOW + 86_400))
    assert "asked for a pause (Retry-After)" in said.why
    assert "not before 2025-11-26 13:00 (in 24 h)" in said.next


def test_backing_off() -> None:
    """A grant that fails alone: how often, what the last attempt said, when the next is."""
    remembered = past(
        attempt("busy", "postponed", "http_503", "down"), attempt("not_sent", "postponed", "connect", "refused")
    )
    said = explained(grant(failures=2), remembered)
    assert said.why == ("The refresh of grant door failed 2 times in a row: nothing was sent (connect: refused).")
    assert said.next.startswith("The broker tries it again at 13:03:00 (in 3 min).")
    assert "failed once" in explained(grant(failures=1)).why


def test_provider_gone() -> None:
    """A provider that is no longer in the settings is what is named, not the grant."""
    said = explained(grant(), acme=provider(kind=None))
    assert "not in the settings" in said.why
    assert "[providers.acme]" in said.person
    assert said.exit_code == FAILED
    dead = grant(state="parked", reason="reauthorization_required")
    assert explained(dead, acme=provider(kind=None)).why == said.why, "a login there would be refused"


def test_absent() -> None:
    """One that was forgotten lately, and one that never was: different words, both exit 1."""
    gone = explain("door", None, past(forgotten_at=MS - 60 * MINUTE, next_at=None), None, NOW)
    assert gone.why == "Grant door was logged out and forgotten at 12:00:00 (60 min ago)."
    lost = explain(
        "door", None, past(lost_at=MS - 60 * MINUTE, next_at=None), None, NOW, zone=timezone(timedelta(hours=9))
    )
    assert "found at 20:00:00 (60 min ago)" in lost.why, "at the clock of who asks"
    never = explain("door", None, None, None, NOW)
    assert (never.why, never.next) == ("There is no grant door, and none was deleted in the last month.", "")
    assert (gone.exit_code, never.exit_code) == (FAILED, FAILED)


def test_every_outcome_and_decision_has_words() -> None:
    """No word of the machine reaches a person: each outcome and decision that is written is in the tables."""
    import ast
    from pathlib import Path

    import broker

    root = Path(broker.__file__).parent
    decided = set()
    for script in ("claim", "commit", "postpone", "park", "restore"):
        text = (root / "store" / "lua" / f"{script}.lua").read_text()
        decided |= {word for word in DECISIONS if f"'{word}" in text}
    assert decided == set(DECISIONS)
    outcomes = {"unknown", "logged_in", "registration", "unreadable", "tampered"}
    assert "suspend('registration')" in (root / "store" / "lua" / "park.lua").read_text()
    for file in ("policy.py", "scheduler.py"):
        for node in ast.walk(ast.parse((root / "refresh" / file).read_text())):
            made = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if isinstance(node, ast.Call) and made in {"Park", "Postpone", "Commit", "_again"}:
                outcomes |= {str(c.value) for c in ast.walk(node.args[1]) if isinstance(c, ast.Constant)}
    assert outcomes == set(OUTCOMES)
    [said] = past(attempt("not_sent", "postponed", "connect", next_at=MS + MINUTE))["attempts"]
    assert outcome(said) == "nothing was sent (connect)"
    assert decision(said, NOW) == "to be tried again at 13:01:00"
    [said] = past(attempt("dead", "parked", "invalid_grant", "gone"))["attempts"]
    assert (outcome(said), decision(said, NOW)) == (
        "the provider no longer accepts the refresh token (invalid_grant: gone)",
        "parked until a person acts",
    )


def test_times() -> None:
    """Durations in the unit that says most; another day is named."""
    assert [span(s) for s in (-1, 0, 119, 120, 7199, 7200, 172_799, 172_800)] == [
        "0 s",
        "0 s",
        "119 s",
        "2 min",
        "120 min",
        "2 h",
        "48 h",
        "2 d",
    ]
    assert clock(NOW, NOW) == "13:00:00"
    assert moment(NOW, NOW) == moment(NOW, NOW - 0.4) == "13:00:00 (0 s ago)"
    assert moment(NOW - 86_400, NOW) == "2025-11-24 13:00 (24 h ago)"
