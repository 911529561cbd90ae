"""When an access token was issued, as the clocks on both sides bound it: its life counts from then.

Pure: no I/O, and the times are given. A response may be read long after it was sent: this process was frozen, or the
network held it. The life of a token that is counted from the reading is then oversold.
"""

from __future__ import annotations


def earliest(now: int, sent_at: int | None, date: int | None, ahead_ms: int = 0) -> int:
    """Return the earliest plausible time (epoch ms) at which the token of a response was issued.

    That is not before the request was sent, and not after the response was read. Between the two the response's `Date`
    (RFC 9110 §6.6.1) decides: a server that works on a request for long issues the token at the end. A `Date` outside
    them comes from a clock that is wrong, and does not count. It has whole seconds, rounded down.

    Args:
        now: when the response was read.
        sent_at: when its request was sent, by the same clock; None: not known. A clock that was set back meanwhile has
            it after *now*, which then counts.
        date: of the response; None: it has none that can be read.
        ahead_ms: by how much the server's clock is known to be ahead (`clock_ahead_ms`); negative says nothing.
    """
    if sent_at is None or sent_at >= now:
        return now
    if date is None or date > now:
        return sent_at
    return max(sent_at, date - max(0, ahead_ms))


def clock_ahead_ms(now: int, date: int | None) -> int:
    """Return by how much (ms) the server's clock is ahead at least; 0 if a `Date` does not prove it.

    A response is never read before it was made: a `Date` after *now* (epoch ms) proves it, an earlier one nothing.
    """
    return 0 if date is None else max(0, date - now)
