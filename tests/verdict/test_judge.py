"""The verdict as a pure function: every cause, what each makes of the status, and what goes together."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC
from typing import TYPE_CHECKING, Any, get_args

import pytest

from broker.report.cause import EXAMPLES, Kind
from broker.report.facts import Facts, LoopFacts, Memory, ProviderFacts, StoreTrouble, UrgentGrant
from broker.report.verdict import EXIT_CODES, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.report.verdict import Verdict

NOW = 1_764_072_000  # 12:00:00 UTC
AWAY = StoreTrouble("redis", "Redis cannot be reached", "start Redis, or correct redis.url", NOW - 60)
OTHER = StoreTrouble("wrong_store", "Redis holds another store (ab) than this broker's", "correct redis.url", NOW - 5)
MEMORY = Memory(480, NOW + 180, NOW + 3600)


def acme(grants: int = 3, unserved: int = 0, **changes: Any) -> ProviderFacts:
    """Return a provider."""
    return ProviderFacts("acme", grants=grants, unserved=unserved, **changes)


def dead(*names: str, served: bool = False, reason: str = "reauthorization_required", **more: Any) -> list[UrgentGrant]:
    """Return parked grants, their tokens ended a minute ago or end in a minute."""
    since = None if served else NOW - 60
    end = NOW + 60 if served else NOW - 60
    fields: dict[str, Any] = {"reason": reason, "expires_at": end, "unserved_since": since} | more
    return [UrgentGrant(name, "acme", served, **fields) for name in names]


def late(*names: str, **changes: Any) -> list[UrgentGrant]:
    """Return grants whose tokens ended ten seconds ago, and that are due since then."""
    fields: dict[str, Any] = {"expires_at": NOW - 10, "next_at": NOW - 10, "unserved_since": NOW - 10} | changes
    return [UrgentGrant(name, "acme", served=False, **fields) for name in names]


def facts(*providers: ProviderFacts, grants: Sequence[UrgentGrant] = (), **changes: Any) -> Facts:
    """Return facts of a broker that runs."""
    return Facts(NOW, providers=providers or (acme(),), grants=grants, **changes)


def judged(known: Facts) -> Verdict:
    """Return the verdict, with times in UTC."""
    verdict = judge(known, UTC)
    assert verdict.summary.endswith(".")
    assert ".." not in verdict.summary
    return verdict


CASES: dict[str, tuple[Facts, list[str], str, str]] = {
    "all is well": (facts(), [], "ok", "All 3 grants have a valid token."),
    "one grant": (facts(acme(1)), [], "ok", "The grant has a valid token."),
    "no grants": (facts(acme(0)), [], "ok", "There are no grants yet."),
    "starting": (replace(facts(), started=False, providers=None), [], "recovering", "token-broker is starting."),
    "counting": (
        replace(facts(), providers=None, counting=True),
        [],
        "recovering",
        "The grants are being counted, as once after an upgrade.",
    ),
    "a token ended meanwhile": (facts(acme(3, 1)), ["expired"], "recovering", ""),
    "redis away": (
        replace(facts(), store=AWAY, providers=None, memory=MEMORY),
        ["redis"],
        "recovering",
        (
            "Only the 480 tokens in memory are served: the first ends at 12:03:00 (in 3 min), the last at "
            "13:00:00 (in 60 min): Redis cannot be reached; start Redis, or correct redis.url."
        ),
    ),
    "redis away before the start": (
        replace(facts(), store=AWAY, providers=None, started=False),
        ["redis"],
        "recovering",
        "No token is in memory, so callers get none: Redis cannot be reached; start Redis, or correct redis.url.",
    ),
    "another store": (
        replace(facts(), store=OTHER, providers=None, memory=Memory(1, NOW + 180, NOW + 180)),
        ["wrong_store"],
        "failing",
        (
            "Only the token in memory is served, until 12:03:00 (in 3 min): Redis holds another store (ab) than this "
            "broker's; correct redis.url."
        ),
    ),
    "redis refuses writes": (
        replace(facts(), store=replace(AWAY, what="Redis refuses writes")),
        ["redis"],
        "recovering",
        "All 3 grants have a valid token; Redis refuses writes; start Redis, or correct redis.url.",
    ),
    "not on all disks": (facts(unproved="its disk is too slow"), ["redis"], "recovering", ""),
    "fenced": (
        facts(acme(3, 3), grants=late("a", "b", "c"), fenced_since=NOW - 3, fenced_until=NOW + 12),
        ["fenced"],
        "recovering",
        (
            "None of 3 grants has a valid token: refreshing pauses until 12:00:12 (in 12 s), because Redis "
            "was restarted, failed over or restored."
        ),
    ),
    "fenced, and one is dead": (
        facts(acme(3, 3), grants=[*dead("a"), *late("b", "c")], fenced_since=NOW - 3, fenced_until=NOW + 12),
        ["login_needed", "fenced"],
        "login_needed",
        "None of 3 grants has a valid token: log in again to a (and one more cause).",
    ),
    "two of many are dead": (
        facts(acme(502, 2), grants=dead("acme-7", "acme-9")),
        ["login_needed"],
        "login_needed",
        "2 of 502 grants have no valid token: log in again to acme-7 and acme-9.",
    ),
    "many are dead": (
        facts(acme(502, 9), grants=dead(*(f"g{n}" for n in range(9)))),
        ["login_needed"],
        "login_needed",
        "9 of 502 grants have no valid token: log in again to g0, g1 and 7 others.",
    ),
    "one is about to die": (
        facts(acme(3), grants=dead("a", served=True)),
        ["login_needed"],
        "login_needed",
        "All 3 grants have a valid token; log in again to a.",
    ),
    "the only one is dead": (
        facts(acme(1, 1), grants=dead("a")),
        ["login_needed"],
        "login_needed",
        "The only grant has no valid token: log in again to a.",
    ),
    "refused": (
        facts(acme(3, 1), grants=dead("a", reason="invalid_scope")),
        ["parked"],
        "failing",
        (
            "1 of 3 grants has no valid token: a was refused by provider acme: correct what the provider complains of, "
            "and retry: `token-broker explain a`."
        ),
    ),
    "sealed with a missing key": (
        facts(acme(3, 1), grants=dead("a", reason="sealed_with_missing_key", unreadable=True)),
        ["parked"],
        "failing",
        "",
    ),
    "altered in Redis": (
        facts(acme(3, 1), grants=dead("a", reason="tampered", unreadable=True)),
        ["parked"],
        "failing",
        (
            "1 of 3 grants has no valid token: a was altered in Redis: find out who writes Redis, then log in again: "
            "`token-broker explain a`."
        ),
    ),
    "suspended": (
        facts(acme(3, suspended="invalid_client", suspended_since=NOW - 90, not_before=NOW + 30)),
        ["provider_suspended"],
        "failing",
        (
            "All 3 grants have a valid token; provider acme refuses this broker's client registration "
            "(invalid_client): correct client_id and client secret of [providers.acme], run `token-broker "
            "reload`, and resume it: `token-broker retry --provider acme`."
        ),
    ),
    "suspended after refusals": (
        facts(acme(3, 3, suspended="invalid_grant"), grants=late("a", "b", "c")),
        ["provider_suspended"],
        "failing",
        "",
    ),
    "failing provider": (
        facts(acme(3, failures=4, detail="connect", failing_since=NOW - 9, not_before=NOW + 8)),
        ["provider_failing"],
        "recovering",
        (
            "All 3 grants have a valid token; provider acme is failing: 4 token requests in a row brought nothing "
            "(connect); the broker tries again at 12:00:08 (in 8 s)."
        ),
    ),
    "failing provider, the next grant is due later": (
        facts(acme(3, failures=4, detail="connect", not_before=NOW - 1, next_due=NOW + 3600)),
        ["provider_failing"],
        "recovering",
        (
            "All 3 grants have a valid token; provider acme is failing: 4 token requests in a row brought nothing "
            "(connect); the broker tries again at 13:00:00 (in 60 min)."
        ),
    ),
    "failed once, nobody notices": (facts(acme(3, failures=1)), [], "ok", "All 3 grants have a valid token."),
    "failed once, and a grant has no token": (
        facts(acme(3, 1, failures=1), grants=late("a")),
        ["provider_failing"],
        "recovering",
        "",
    ),
    "removed from the settings, and a grant is dead": (
        facts(acme(3, 1, configured=False), grants=dead("a")),
        ["provider_missing"],
        "failing",
        "",
    ),
    "removed from the settings": (
        facts(acme(3, 3, configured=False), grants=late("a", "b", "c")),
        ["provider_missing"],
        "failing",
        "",
    ),
    "removed, and without grants": (facts(acme(0, configured=False)), [], "ok", "There are no grants yet."),
    "waits for its first token": (
        facts(acme(3, 1), grants=late("a", expires_at=None)),
        ["expired"],
        "recovering",
        (
            "1 of 3 grants has no valid token: 1 grant at provider acme waits for its first token, which comes within "
            "seconds."
        ),
    ),
    "late": (
        facts(acme(3, 2), grants=late("a", "b")),
        ["expired"],
        "recovering",
        (
            "2 of 3 grants have no valid token: 2 grants at provider acme wait for a late refresh, which comes within "
            "seconds."
        ),
    ),
    "one grant fails": (
        facts(acme(3, 1), grants=late("a", failures=2, next_at=NOW + 30)),
        ["failing"],
        "recovering",
        (
            "1 of 3 grants has no valid token: the refresh of a at provider acme fails; the broker tries "
            "again at 12:00:30 (in 30 s)."
        ),
    ),
    "one is late, another fails, and is served": (
        facts(acme(3, 1), grants=[*late("a"), UrgentGrant("b", "acme", served=True, failures=9)]),
        ["expired", "failing"],
        "recovering",
        (
            "1 of 3 grants has no valid token: 1 grant at provider acme waits for a late refresh, which comes within "
            "seconds (and one more cause)."
        ),
    ),
    "ten thousand": (facts(acme(10_000)), [], "ok", "All 10,000 grants have a valid token."),
    "one failed once, and is served": (
        facts(acme(3), grants=[UrgentGrant("a", "acme", served=True, failures=1)]),
        [],
        "ok",
        "",
    ),
    "full disk": (
        facts(journal_fault="No space left on device", journal_since=NOW - 5),
        ["journal"],
        "failing",
        (
            "All 3 grants have a valid token; the journal in data_dir cannot be written (No space left on "
            "device): make room in data_dir, or correct what keeps the disk from writing."
        ),
    ),
    "full disk, redis away": (
        replace(facts(journal_fault="x"), store=AWAY, providers=None, memory=MEMORY),
        ["redis", "journal"],
        "failing",
        "",
    ),
    "full disk, no audit": (
        facts(audit_fault="No space left on device", audit_refuses=True, audit_since=NOW - 9),
        ["audit"],
        "failing",
        (
            "All 3 grants have a valid token; callers get 503 instead of tokens, and nobody can log in, because the "
            "audit stream cannot be written (No space left on device): make room on the disk of audit.file, or correct "
            "what keeps the broker from writing it."
        ),
    ),
    "full disk, audit waits": (
        facts(acme(3, 1), audit_fault="No space left on device"),
        ["audit", "expired"],
        "failing",
        "",
    ),
    "lost": (
        facts(acme(0), lost=["g1"], lost_since=NOW - 9),
        ["lost"],
        "login_needed",
        (
            "No grant is left; Redis lost the data of g1, and no journal restores it: log in again to it, or start the "
            "brokers whose journals may hold it."
        ),
    ),
    "many lost": (
        facts(lost=["g1", "g2", "g3", "g4", "g5", "g6"]),
        ["lost"],
        "login_needed",
        (
            "All 3 grants have a valid token; Redis lost the data of g1, g2 and 4 others, and no journal restores "
            "them: log in again to them, or start the brokers whose journals may hold them."
        ),
    ),
    "a loop stands still": (
        facts(loops=[LoopFacts("lane acme", "no progress for 40 s", NOW - 40, alive=False)]),
        ["loop"],
        "failing",
        (
            "All 3 grants have a valid token; the loop that refreshes the grants of acme makes no progress: "
            "restart the broker."
        ),
    ),
    "a loop is in trouble": (facts(loops=[LoopFacts("notices x", "not delivered", NOW)]), ["loop"], "recovering", ""),
    "connections": (
        facts(connections="99 of 100 connections are open: raise http.max_connections"),
        ["connections"],
        "recovering",
        "All 3 grants have a valid token; 99 of 100 connections are open: raise http.max_connections.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_cause(case: str) -> None:
    """The causes, most urgent first, what they make of the status, and the one sentence."""
    known, kinds, status, summary = CASES[case]
    verdict = judged(known)
    assert [cause.kind for cause in verdict.causes] == kinds
    assert verdict.status == status
    assert not summary or verdict.summary == summary
    for cause in verdict.causes:
        assert cause.sentence.endswith(".")
        assert cause.next or cause.action
        assert len(cause.examples) <= EXAMPLES


def test_every_kind_has_a_case() -> None:
    """No cause is without a case, and every status has its exit code."""
    assert {kind for _, kinds, _, _ in CASES.values() for kind in kinds} == set(get_args(Kind))
    assert {status for _, _, status, _ in CASES.values()} == set(EXIT_CODES)


@pytest.mark.parametrize("case", CASES)
def test_nothing_public_names_a_grant(case: str) -> None:
    """Routes without a key get no id of a grant and no words of a provider; sentences for other callers have no ids."""
    known, *_ = CASES[case]
    if known.providers is not None:
        known = replace(known, providers=[replace(p, detail=p.detail and "its-words") for p in known.providers])
    known = replace(known, grants=[replace(grant, grant_id=f"id-{n}") for n, grant in enumerate(known.grants)])
    verdict = judged(known)
    assert "id-" not in verdict.public_summary
    assert "its-words" not in verdict.public_summary
    for cause in verdict.causes:
        assert "id-" not in cause.sentence
        assert "id-" not in (cause.next or "")
        assert "id-" not in (cause.public_action or "")
        assert cause.public_action or "id-" not in (cause.action or "")


def test_counts_add_up() -> None:
    """Every grant without a token counts for one cause, and what is beyond those that were read counts, too."""
    gone = replace(acme(5, 2), name="gone", configured=False)
    known = facts(acme(1000, 700), gone, grants=[*dead("a", "b"), *late("c")], more_grants=True)
    verdict = judged(known)
    assert (verdict.grants, verdict.alive, verdict.unserved) == (1005, 303, 702)
    assert sum(cause.unserved or 0 for cause in verdict.causes) == 702
    assert verdict.providers == {"acme": (1000, 700), "gone": (5, 2)}
    assert [cause.kind for cause in verdict.causes] == ["provider_missing", "login_needed", "expired"]
    assert "at least 2 grants need a login" in verdict.public_summary or verdict.causes[1].sentence.startswith(
        "At least"
    )


def test_since_when() -> None:
    """A cause has the time of whoever noticed first, or of the first grant that lost its token."""
    grants = [*dead("a", unserved_since=NOW - 300), *dead("b")]
    assert judged(facts(acme(3, 2), grants=grants)).causes[0].since == NOW - 300
    assert judged(replace(facts(), store=AWAY, providers=None)).causes[0].since == NOW - 60
    assert judged(CASES["suspended"][0]).causes[0].since == NOW - 90
    assert judged(CASES["failing provider"][0]).causes[0].since == NOW - 9
