"""Decide what a token request's outcome means for its grant.

Pure: no I/O, no clock, no random numbers; `now` and `draw` are given. Times are epoch ms, durations ms, a *draw* is a
number in [0, 1).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, assert_never

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
from broker.providers import extra_members, lifetimes

if TYPE_CHECKING:
    from broker.model import Claim, StatedLimits
    from broker.providers import Dialect

LEAST_PAUSE = 1_000
"""Shortest pause between two token requests of a grant, whatever went wrong."""
LEAST_LIFE = 500
"""No refresh is planned sooner than this after a token came: tokens of shorter life must not cause a busy loop."""
BACKOFF_FIRST = 2_000
BACKOFF_LIVING = 300_000
"""Longest pause while the token lives; less where little life is left."""
BACKOFF_EXPIRED = 30_000
"""Longest pause once nothing valid is left."""
REPLAY_MARGIN = 30_000
"""How long before its token's end an attempt of unknown outcome is replayed; a tenth of a shorter life."""
REFUSALS = 5
"""Refusals in a row after which a grant is parked, where the refusal does not say that the grant is dead."""
REFUSED_FOR = 60_000
"""Such refusals park a grant no sooner: a blip of a provider, or of a firewall before it, may last as long."""
REFUSAL_FIRST = 5_000
"""Pause after the first such refusal; it doubles with each."""
UNCHANGED_PAUSE = 60_000
"""Shortest pause after a token came back unchanged, while as much life is left."""
FAILING_AFTER = 3
"""Failures in a row after which a message is published."""


def plan(
    answer: TokenResponse, dialect: Dialect, now: int, draw: float, stated: StatedLimits | None = None
) -> tuple[int, int]:
    """Return `expires_at` and `refresh_at` of a token that arrived by *now*: both count from when it was issued.

    The server's `refresh_in` wins over the window; what the refresh token can stand unused bounds both. *stated* is
    what answers said of that, this one included.
    """
    issued_at = answer.counts_from(now)
    life = dialect.default_lifetime_ms if answer.lifetime_ms is None else answer.lifetime_ms
    first, last = dialect.window
    after = life * (first + (last - first) * draw)
    if answer.refresh_in_ms is not None and answer.refresh_in_ms < life:
        after = answer.refresh_in_ms
    if (unused := lifetimes.longest_unused(dialect, stated, issued_at)) is not None:
        after = min(after, unused * last)
    return issued_at + life, max(issued_at + int(after), now + LEAST_LIFE)


def ask_again_at(expires_at: int, now: int) -> int:
    """Return when to ask again for a token that came back *unchanged*: at half of the life that is left.

    That is a minute at least, but not beyond nine tenths of what is left: at the very end callers would be without a
    token for the time of a request.
    """
    left = expires_at - now
    return now + max(left // 2, min(UNCHANGED_PAUSE, left * 9 // 10), LEAST_PAUSE)


def backoff(failures: int, expires_at: int | None, now: int, draw: float) -> int:
    """Return the pause before the next try after *failures* in a row: exponential with full jitter.

    It is bounded by a quarter of the life that is left, so that several tries fit into it.
    """
    remaining = (expires_at or 0) - now
    longest = max(LEAST_PAUSE, min(BACKOFF_LIVING, remaining // 4)) if remaining > 0 else BACKOFF_EXPIRED
    return max(LEAST_PAUSE, int(draw * min(longest, BACKOFF_FIRST * 2 ** min(failures - 1, 16))))


def refusal_pause(claim: Claim, now: int, draw: float) -> int:
    """Return the pause before the next try of a refused grant: growing, with little jitter.

    It is bounded by a quarter of the life that is left, as `backoff` is, but never much shorter than the first pause.
    """
    remaining = (claim.expires_at or 0) - now
    longest = max(REFUSAL_FIRST, min(BACKOFF_LIVING, remaining // 4)) if remaining > 0 else BACKOFF_EXPIRED
    return int((0.75 + draw / 4) * min(longest, REFUSAL_FIRST * 2 ** min(claim.refusals, 16)))


def is_exhausted(claim: Claim, now: int) -> bool:
    """Return whether one more refusal at *now* parks the grant.

    That is after `REFUSALS`, `REFUSED_FOR`, or when half of the life is gone that was left at the first of them:
    whichever is later.
    """
    since = now if claim.refused_since is None else claim.refused_since
    margin = max(0, (claim.expires_at or since) - since)
    return claim.refusals + 1 >= REFUSALS and now - since >= max(REFUSED_FOR, margin // 2)


def replay_at(claim: Claim, unknown_at: int, dialect: Dialect, now: int) -> int:
    """Return when a refresh token that may have been redeemed at *unknown_at* may be presented again.

    Inside the dialect's grace that is at once. After it the current token is served as long as it lives, and the replay
    comes just before its end; with nothing valid left there is nothing to lose.
    """
    grace = dialect.reuse_grace_ms
    # Both bounds: after a clock was set back, a time in the future must not look like one within the grace.
    if grace is None or -grace < now - unknown_at < grace:
        return now
    if claim.expires_at is None or claim.expires_at <= now:
        return now
    life = claim.expires_at - (claim.issued_at or claim.expires_at)
    margin = min(REPLAY_MARGIN, max(life // 10, LEAST_PAUSE))
    return max(now, claim.expires_at - margin)


def hold_back(claim: Claim, dialect: Dialect, now: int) -> Postpone | None:
    """Return how to postpone a claimed grant that must not be refreshed yet, after an attempt of unknown outcome.

    Returns:
        None where the refresh token may be presented now.
    """
    if claim.unknown_at is None:
        return None
    at = replay_at(claim, claim.unknown_at, dialect, now)
    if at <= now:
        return None
    return Postpone(
        claim,
        "unknown",
        code="open_attempt",
        detail="",
        due_at=at,
        failures=max(claim.failures, 1),
        unknown=True,
        asked=False,
    )


def decide(claim: Claim, outcome: Outcome, dialect: Dialect, now: int, draw: float) -> Step:
    """Return what happens next to the grant of *claim*, whose token request ended at *now* with *outcome*."""
    match outcome:
        case Answered(answer):
            return _keep(claim, answer, dialect, now, draw)
        case NotSent():
            return _again(claim, "not_sent", outcome, now, draw)
        case Busy(retry_after_ms=wait):
            again = _again(claim, "busy", outcome, now, draw)
            return replace(again, not_before=now + wait) if wait else again
        case Unknown():
            return _unknown(claim, outcome, dialect, now, draw)
        case InvalidGrant(code, detail, sure):
            reason, words = "reauthorization_required", f"{code}: {detail}" if detail else code
            dead = Park(claim, "dead", reason, detail=words, event="reauthorization_required", code=code)
            return dead if sure else _doubt(dead, "doubtful", now, draw)
        case InvalidClient(code, detail, sure):
            refused = Park(claim, "rejected", code, detail=detail, event="refresh_failing")
            return _doubt(refused, "registration" if sure else "doubtful", now, draw)
        case Rejected():
            return _refused(claim, outcome, now, draw)
    assert_never(outcome)


def _doubt(step: Park, verdict: Literal["doubtful", "registration"], now: int, draw: float) -> Park:
    """Return *step* as one that the store decides by what other grants of the provider meet."""
    claim = step.claim
    due_at = now + refusal_pause(claim, now, draw)
    return replace(step, verdict=verdict, due_at=due_at, exhausted=is_exhausted(claim, now))


def _refused(claim: Claim, outcome: Rejected, now: int, draw: float) -> Postpone | Park:
    """Try again after a refusal that says neither that the grant is dead nor that the client is refused."""
    if is_exhausted(claim, now):
        return Park(claim, "rejected", outcome.code, detail=outcome.detail, event="refresh_failing")
    failures = claim.failures + 1
    return Postpone(
        claim,
        "rejected",
        code=outcome.code,
        detail=outcome.detail,
        due_at=now + refusal_pause(claim, now, draw),
        failures=failures,
        # A grant that is refused again says nothing new of its provider; one that never had a token says nothing.
        lane="ailing" if claim.had_token and not claim.refusals else "",
        failing=failures == FAILING_AFTER,
        refused_since=now if claim.refused_since is None else claim.refused_since,
    )


def _keep(claim: Claim, answer: TokenResponse, dialect: Dialect, now: int, draw: float) -> Commit:
    rotated = answer.refresh_token is not None and answer.refresh_token != claim.refresh_token
    issued_at = answer.counts_from(now)
    stated = lifetimes.carry(
        claim.stated, answer.grant_life, granted_at=claim.granted_at, now=issued_at, rotated=rotated
    )
    token, failures = _served(claim, answer, dialect, now, draw, stated=stated), 0
    fresh = token is not None and token.generation != claim.generation
    if token is None or (not fresh and answer.ended):
        failures = claim.failures + 1
    return Commit(
        claim,
        "refreshed" if fresh else "unchanged" if token else "unusable",
        detail=answer.problem if token is None else "; ".join(answer.warnings) or None,
        token=token,
        # It may have rotated although the access token beside it cannot be used: it is kept, the token held is served.
        refresh_token=answer.refresh_token,
        refresh_at=now + backoff(failures, claim.expires_at, now, draw) if token is None else token.refresh_at,
        ending=lifetimes.ending(dialect, stated, granted_at=claim.granted_at, answered_at=now),
        failures=failures,
        answered_at=now,
        recovered=token is not None and not failures and (claim.recovering or claim.failures >= FAILING_AFTER),
    )


def _served(
    claim: Claim, answer: TokenResponse, dialect: Dialect, now: int, draw: float, *, stated: StatedLimits | None
) -> Token | None:
    """Return the token to serve after *answer*; None: it brought none that can be used."""
    if answer.access_token is None:
        return None
    issued_at = answer.counts_from(now)
    expires_at, refresh_at = plan(answer, dialect, now, draw, stated)
    unchanged = answer.access_token == claim.access_token
    if unchanged and answer.ended:
        expires_at = claim.expires_at or expires_at
        refresh_at = now + backoff(claim.failures + 1, claim.expires_at, now, draw)
    elif unchanged:
        refresh_at = ask_again_at(expires_at, now)
        if (unused := lifetimes.longest_unused(dialect, stated, now)) is not None:
            refresh_at = min(refresh_at, now + max(LEAST_PAUSE, int(unused * dialect.window[1])))
    return Token(
        grant_id=claim.grant_id,
        provider=claim.provider,
        generation=claim.generation if unchanged else max(claim.generation + 1, now),
        access_token=answer.access_token,
        token_type=answer.token_type,
        scope=answer.scope if answer.scope is not None else claim.scope,
        issued_at=(claim.issued_at or issued_at) if unchanged else issued_at,
        expires_at=expires_at,
        refresh_at=refresh_at,
        usable_until=usable_until(expires_at, refresh_at, dialect.old_token),
        extra=extra_members.carry(claim.extra, answer.extra),
    )


def _again(claim: Claim, name: str, outcome: NotSent | Busy, now: int, draw: float) -> Postpone:
    failures = claim.failures + 1
    return Postpone(
        claim,
        name,
        code=outcome.code,
        detail=outcome.detail,
        # A `Retry-After` is no part of it: that holds for the provider, until it is resumed (`not_before`).
        due_at=now + backoff(failures, claim.expires_at, now, draw),
        failures=failures,
        lane="ailing",
        failing=failures == FAILING_AFTER,
    )


def _unknown(claim: Claim, outcome: Unknown, dialect: Dialect, now: int, draw: float) -> Postpone:
    failures = claim.failures + 1
    at = replay_at(claim, claim.unknown_at or claim.claimed_at, dialect, now)
    if failures > 1:
        at = max(at, now + (backoff(failures, claim.expires_at, now, draw) if at <= now else LEAST_PAUSE))
    # A grace that ends is used at once for every grant; a lane that sends one request at a time would waste it.
    grace_runs_out = dialect.reuse_grace_ms is not None and dialect.reuse_grace_ms > 0
    return Postpone(
        claim,
        "unknown",
        code=outcome.code,
        detail=outcome.detail,
        due_at=at,
        failures=failures,
        unknown=True,
        lane="" if grace_runs_out else "ailing",
        failing=failures == FAILING_AFTER,
    )
