"""How long an access token and its grant live, as the members of an answer say it.

Owns the names of those members, and what they mean together with the provider's settings. Pure: no I/O, and `now` is
given. `token_response` reads the rest of an answer; `refresh.policy` plans with the result.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, NamedTuple

from broker.model import Ending, GrantLife, StatedLimits
from broker.providers import members, redaction
from broker.providers.members import TEN_YEARS_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from broker.providers.dialects import Dialect
    from broker.secret import Secret

_SPANS = ("expires_in_sec", "expires_in")
"""Seconds. Zoho's `expires_in` is in milliseconds where `expires_in_sec` stands beside it."""
_ENDS = ("expires_at", "expire_time", "expires_on", "expires")
"""Points in time, ISO 8601 or epoch."""
_REFRESH_TOKEN = (
    "refresh_token_expires_in",
    "refresh_expires_in",
    "x_refresh_token_expires_in",
    "refresh_token_expires_at",
)
_IDLE = ("refresh_token_timeout",)
_AUTHORIZATION = ("authorization_expires_in", "x_refresh_token_hard_expires_in")
"""These two, and `_IDLE`: draft-ietf-oauth-refresh-token-expiration; the `x_` ones: Intuit."""
_OF_GRANT = frozenset({*_REFRESH_TOKEN, *_IDLE, *_AUTHORIZATION})
_READ = frozenset({*_SPANS, *_ENDS, *_OF_GRANT, "refresh_in"})
_NO_LIFETIMES = frozenset({"ext_expires_in", "id_token_expires_in"})
"""They look like lifetimes, and are none of the access token or the grant (Microsoft)."""
_LIKE_A_LIFETIME = re.compile(
    r"expir|lifetime|time_?out|valid_?(until|till|for|to)|max_?age|(^|_)ttl($|_)", re.IGNORECASE
)
_ABOUT_THE_GRANT = re.compile(r"refresh|authorization|consent|grant", re.IGNORECASE)

_HUNDRED_YEARS_MS = 10 * TEN_YEARS_MS
_SAME_END_MS = 3_600_000
"""Ends of a refresh token that differ by less are one end, said again: rounding, and the time of a request."""
_LONGEST_NAME = 64
_MAX_WARNED = 8
_NOTHING_SAID = GrantLife()


class Life(NamedTuple):
    """How long an access token lives (ms; None: the answer does not say), and whether it says that nothing is left."""

    ms: int | None
    ended: bool = False


def is_lifetime(name: str) -> bool:
    """Return whether a member of that name says how long something lives, so that it ages with its answer."""
    return len(name) <= _LONGEST_NAME and _is_lifetime(name)


@functools.lru_cache(1_024)  # every answer of a provider has the same names
def _is_lifetime(name: str) -> bool:
    return name in _READ or _LIKE_A_LIFETIME.search(name) is not None


def of_access_token(
    values: Mapping[str, object], dialect: Dialect, server_now: Callable[[], int], warnings: list[str]
) -> Life:
    """Return how long the access token of an answer lives.

    The setting `lifetime` overrules the answer. Then spans count before points in time, and what cannot be read is
    passed over with a warning.

    Args:
        values: members of the answer.
        dialect: of the provider.
        server_now: returns the server's time (epoch ms): its points in time are relative to it.
        warnings: receives what was odd.
    """
    if dialect.lifetime_ms is not None:
        return Life(dialect.lifetime_ms)
    ended = False
    for name in (*_SPANS, *_ENDS):
        if (value := values.get(name)) is None:
            continue
        life = _access_token_ms(name, value, server_now, warnings)
        if life:
            return Life(life)
        ended = ended or life == 0
    return Life(None, ended)


def _access_token_ms(name: str, value: object, server_now: Callable[[], int], warnings: list[str]) -> int | None:
    """Return the life (ms) that one member gives; 0: none is left; None: it cannot be used."""
    seconds, is_span = members.number(value), name in _SPANS
    if seconds is None:
        at = members.iso_ms(value)
        if at is None:
            warnings.append(f"{name} is not a number" if is_span else f"{name} is neither a number nor ISO 8601")
            return None
        left: float = at - server_now()
    elif seconds * 1_000 <= TEN_YEARS_MS:
        if not is_span and seconds > 0:
            warnings.append(f"{name} is no point in time: read as seconds")
        left = seconds * 1_000
    elif is_span:
        ahead = members.epoch_to_ms_from(seconds, server_now())
        how = "implausible, ignored" if ahead is None else "read as a point in time"
        warnings.append(f"{name} is more than ten years: {how}")
        return ahead
    else:
        left = members.epoch_ms(seconds) - server_now()
    if left > TEN_YEARS_MS:
        warnings.append(f"{name} is more than ten years ahead: ignored")
        return None
    if left < 1:
        warnings.append(f"{name} is zero or negative: ignored" if is_span else f"{name} has passed: ignored")
        return 0
    return int(left)


def of_grant(values: Mapping[str, object], server_now: Callable[[], int], warnings: list[str]) -> GrantLife:
    """Return what an answer says of the end of its grant; arguments as for `of_access_token`."""
    if _OF_GRANT.isdisjoint(values):
        return _NOTHING_SAID
    return GrantLife(
        refresh_token_ms=_first_grant_ms(_REFRESH_TOKEN, values, server_now, warnings),
        idle_ms=_first_grant_ms(_IDLE, values, server_now, warnings),
        authorization_ms=_first_grant_ms(_AUTHORIZATION, values, server_now, warnings),
    )


def _first_grant_ms(
    names: Iterable[str], values: Mapping[str, object], server_now: Callable[[], int], warnings: list[str]
) -> int | None:
    for name in names:
        if (value := values.get(name)) is None:
            continue
        life = _grant_ms(value, server_now)
        if life is not None:
            return life
        warnings.append(f"{name} is not a plausible lifetime: ignored")
    return None


def _grant_ms(value: object, server_now: Callable[[], int]) -> int | None:
    """Return a life of a grant in ms; 0: it has no end; None: the value is none.

    Long ones are literal, as draft-ietf-oauth-refresh-token-expiration demands: 315569520 means ten years.
    """
    seconds = members.number(value)
    if seconds is None:
        at = members.iso_ms(value)
        left: float | None = None if at is None else at - server_now()
        return int(left) if left is not None and 1 <= left <= _HUNDRED_YEARS_MS else None
    if seconds == 0:
        return 0
    left = seconds * 1_000
    if left > TEN_YEARS_MS:
        left = members.epoch_to_ms_from(seconds, server_now()) or left
    return int(left) if 1 <= left <= _HUNDRED_YEARS_MS else None


def passed_over(values: Mapping[str, object], dialect: Dialect, secrets: tuple[Secret, ...]) -> list[str]:
    """Return a warning for each member that looks like a lifetime and is not read.

    With the setting `lifetime` those of the access token are no news.
    """
    names = [
        name
        for name, value in values.items()
        if is_lifetime(name)
        and name not in _READ
        and name not in _NO_LIFETIMES
        and (dialect.lifetime_ms is None or _ABOUT_THE_GRANT.search(name))
        and (members.number(value) or members.iso_ms(value) is not None)
    ]
    return [f"{redaction.code(name, secrets)} looks like a lifetime, and is not read" for name in names[:_MAX_WARNED]]


def carry(
    before: StatedLimits | None, said: GrantLife, *, granted_at: int, now: int, rotated: bool
) -> StatedLimits | None:
    """Return what is known of a grant's end after one more answer.

    Where that is silent, the authorization ends when it did, and the idle time is what it was. A refresh token's end
    holds as long as the token does. An end that has passed although the provider answered was none.

    Args:
        before: what was known; that of an earlier login does not count.
        said: what this answer says.
        granted_at: when a person granted the grant (epoch ms).
        now: when the answer arrived (epoch ms).
        rotated: whether the answer brought another refresh token.
    """
    if before is None or before.granted_at != granted_at:
        if said == _NOTHING_SAID:
            return None
        before = StatedLimits(granted_at)
    token_ends_at, token_life_ms = (None, 0) if rotated else (before.token_ends_at, before.token_life_ms)
    if said.refresh_token_ms is not None:
        token_ends_at = said.refresh_token_ms and now + said.refresh_token_ms
        known = before.token_ends_at or 0
        # A fixed end that is said again comes nearer with each answer: the life was the longer one, said first.
        again = abs(token_ends_at - known) <= _SAME_END_MS
        token_life_ms = max(before.token_life_ms, said.refresh_token_ms) if again else said.refresh_token_ms
    authorization_ends_at = before.authorization_ends_at
    if said.authorization_ms is not None:
        authorization_ends_at = said.authorization_ms and now + said.authorization_ms
    return StatedLimits(
        granted_at,
        authorization_ends_at=_unless_passed(authorization_ends_at, now),
        idle_ms=before.idle_ms if said.idle_ms is None else said.idle_ms,
        token_ends_at=_unless_passed(token_ends_at, now),
        token_life_ms=token_life_ms,
    )


def _unless_passed(at: int | None, now: int) -> int | None:
    return None if at and at <= now else at


def ending(dialect: Dialect, stated: StatedLimits | None, *, granted_at: int, answered_at: int) -> Ending:
    """Return when a person must log in again at the latest, as far as that is known.

    The settings' limits hold where the answers are silent: `absolute_limit` counts from the login, `idle_limit` from
    the last answer.
    """
    said = stated or StatedLimits(granted_at)
    ends: list[tuple[int, int]] = []
    if said.authorization_ends_at:
        ends.append((said.authorization_ends_at, said.authorization_ends_at - granted_at))
    elif said.authorization_ends_at is None and dialect.absolute_limit_ms is not None:
        ends.append((granted_at + dialect.absolute_limit_ms, dialect.absolute_limit_ms))
    if said.token_ends_at:
        ends.append((said.token_ends_at, said.token_life_ms))
    if idle_ms := _idle_ms(dialect, said):
        ends.append((answered_at + idle_ms, idle_ms))
    by, limit_ms = min(ends, default=(None, None))
    return Ending(by, limit_ms, stated)


def longest_unused(dialect: Dialect, stated: StatedLimits | None, now: int) -> int | None:
    """Return for how long (ms) the refresh token may stay unused from *now* on; None: without limit."""
    stated = stated or StatedLimits(0)
    limits = [stated.token_ends_at - now] if stated.token_ends_at else []
    if idle_ms := _idle_ms(dialect, stated):
        limits.append(idle_ms)
    return min(limits, default=None)


def _idle_ms(dialect: Dialect, stated: StatedLimits) -> int | None:
    if stated.idle_ms is not None:
        return stated.idle_ms
    return dialect.idle_limit_ms if stated.token_ends_at is None else None
