"""What a token request's outcome means for its grant. Pure: no I/O, no clock, no dice; `now` and `draw` are given.

Times are epoch ms, durations ms, a *draw* is a number in [0, 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from broker.model import (
    Answered,
    Busy,
    Commit,
    InvalidClient,
    InvalidGrant,
    NotSent,
    Outcome,
    Park,
    Postpone,
    Rejected,
    Step,
    Token,
    TokenResponse,
    Unknown,
    usable_until,
)

if TYPE_CHECKING:
    from broker.model import Claim
    from broker.providers import Dialect

LEAST_PAUSE = 1_000
"""Between two token requests of a grant, whatever went wrong."""
LEAST_LIFE = 500
"""A token is never planned to be refreshed sooner after its issue: shorter lives must not spin."""
BACKOFF_FIRST = 2_000
BACKOFF_LIVING = 300_000
"""Longest pause while the token lives; less where little life is left."""
BACKOFF_EXPIRED = 30_000
"""Longest pause once nothing valid is left."""
REPLAY_MARGIN = 30_000
"""How long before its token's end an attempt of unknown outcome is replayed; a tenth of a shorter life."""
FAILING_AFTER = 3
"""Failures in a row after which subscribers are told."""


def plan(answer: TokenResponse, dialect: Dialect, now: int, draw: float) -> tuple[int, int]:
    """`expires_at` and `refresh_at` of a token that arrived at *now*.

    The server's `refresh_in` wins over the window; the refresh token's idle limit bounds both.
    """
    life = dialect.default_lifetime_ms if answer.lifetime_ms is None else answer.lifetime_ms
    first, last = dialect.window
    after = life * (first + (last - first) * draw)
    if answer.refresh_in_ms is not None and answer.refresh_in_ms < life:
        after = answer.refresh_in_ms
    if dialect.idle_limit_ms is not None:
        after = min(after, dialect.idle_limit_ms * last)
    return now + life, now + max(LEAST_LIFE, int(after))


def backoff(failures: int, expires_at: int | None, now: int, draw: float) -> int:
    """Pause before the next try after *failures* in a row: exponential with full jitter.

    Bounded by a quarter of the life that is left, so that several tries fit into it.
    """
    remaining = (expires_at or 0) - now
    longest = max(LEAST_PAUSE, min(BACKOFF_LIVING, remaining // 4)) if remaining > 0 else BACKOFF_EXPIRED
    return max(LEAST_PAUSE, int(draw * min(longest, BACKOFF_FIRST * 2 ** min(failures - 1, 16))))


def replay_at(claim: Claim, unknown_at: int, dialect: Dialect, now: int) -> int:
    """When a refresh token that may have been redeemed at *unknown_at* may be presented again.

    At once inside the dialect's grace. After it the current token is served as long as it lives, and the replay comes
    just before its end; with nothing valid left there is nothing to lose.
    """
    grace = dialect.reuse_grace_ms
    # From both sides: after a clock was set back a time "in the future" must not look like one within the grace.
    if grace is None or -grace < now - unknown_at < grace:
        return now
    if claim.expires_at is None or claim.expires_at <= now:
        return now
    life = claim.expires_at - (claim.issued_at or claim.expires_at)
    margin = min(REPLAY_MARGIN, max(life // 10, LEAST_PAUSE))
    return max(now, claim.expires_at - margin)


def hold_back(claim: Claim, dialect: Dialect, now: int) -> Postpone | None:
    """Whether a claimed grant must not be asked for yet, because an attempt of unknown outcome lies before it."""
    if claim.unknown_at is None:
        return None
    at = replay_at(claim, claim.unknown_at, dialect, now)
    if at <= now:
        return None
    return Postpone(claim, "unknown", "open_attempt", "", at, max(claim.failures, 1), unknown=True, asked=False)


def decide(claim: Claim, outcome: Outcome, dialect: Dialect, now: int, draw: float) -> Step:
    """What happens next to the grant of *claim*, whose token request ended at *now* with *outcome*."""
    match outcome:
        case Answered(answer):
            return _keep(claim, answer, dialect, now, draw)
        case NotSent(code, detail):
            return _again(claim, "not_sent", code, detail, now, draw)
        case Busy(code, detail, retry_after_ms):
            return _again(
                claim, "busy", code, detail, now, draw, not_before=now + retry_after_ms if retry_after_ms else 0
            )
        case Unknown(code, detail):
            return _unknown(claim, code, detail, dialect, now, draw)
        case InvalidGrant(code, detail):
            reason = "reauthorization_required"
            return Park(claim, "dead", reason, _told(code, detail), "reauthorization_required", code)
        case InvalidClient(code, detail):
            return Postpone(claim, "registration", code, detail, now, claim.failures, lane="suspended")
        case Rejected(code, detail):
            return Park(claim, "rejected", code, detail, "refresh_failing")
    assert_never(outcome)


def _keep(claim: Claim, answer: TokenResponse, dialect: Dialect, now: int, draw: float) -> Commit:
    failures, reauthorize_by = claim.failures + 1, dialect.reauthorize_by(claim.granted_at, now)
    if answer.access_token is None:
        # The refresh token may have rotated: keep that, go on serving what we have.
        soon = now + backoff(failures, claim.expires_at, now, draw)
        return Commit(
            claim,
            "unusable",
            answer.problem,
            None,
            answer.refresh_token,
            soon,
            reauthorize_by,
            failures,
            now,
            recovered=False,
        )
    expires_at, refresh_at = plan(answer, dialect, now, draw)
    unchanged = answer.access_token == claim.access_token
    if unchanged and answer.lifetime_ms is None:
        expires_at, refresh_at = claim.expires_at or expires_at, now + backoff(failures, claim.expires_at, now, draw)
    elif unchanged:
        refresh_at, failures = max(expires_at, now + LEAST_PAUSE), 0
    else:
        failures = 0
    token = Token(
        grant_id=claim.grant_id,
        provider=claim.provider,
        generation=claim.generation if unchanged else max(claim.generation + 1, now),
        access_token=answer.access_token,
        token_type=answer.token_type,
        scope=answer.scope if answer.scope is not None else claim.scope,
        issued_at=(claim.issued_at or now) if unchanged else now,
        expires_at=expires_at,
        refresh_at=refresh_at,
        usable_until=usable_until(expires_at, refresh_at, dialect.old_token),
        extra=answer.extra,
    )
    return Commit(
        claim,
        "unchanged" if unchanged else "refreshed",
        "; ".join(answer.warnings) or None,
        token,
        answer.refresh_token,
        refresh_at,
        reauthorize_by,
        failures,
        now,
        recovered=not unchanged and claim.failures >= FAILING_AFTER,
    )


def _again(
    claim: Claim, outcome: str, code: str, detail: str, now: int, draw: float, *, not_before: int = 0
) -> Postpone:
    failures = claim.failures + 1
    due_at = now + backoff(failures, claim.expires_at, now, draw)  # not_before is the provider's: resume ends it
    return Postpone(
        claim,
        outcome,
        code,
        detail,
        due_at,
        failures,
        lane="ailing",
        not_before=not_before,
        failing=failures == FAILING_AFTER,
    )


def _unknown(claim: Claim, code: str, detail: str, dialect: Dialect, now: int, draw: float) -> Postpone:
    failures = claim.failures + 1
    at = replay_at(claim, claim.unknown_at or claim.claimed_at, dialect, now)
    if failures > 1:
        at = max(at, now + (backoff(failures, claim.expires_at, now, draw) if at <= now else LEAST_PAUSE))
    # A grace that ends is used at once for every grant; a lane that lets one through at a time would waste it.
    grace_runs_out = dialect.reuse_grace_ms is not None and dialect.reuse_grace_ms > 0
    return Postpone(
        claim,
        "unknown",
        code,
        detail,
        at,
        failures,
        unknown=True,
        lane="" if grace_runs_out else "ailing",
        failing=failures == FAILING_AFTER,
    )


def _told(code: str, detail: str) -> str:
    return f"{code}: {detail}" if detail else code
