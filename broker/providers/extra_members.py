"""What callers get beside the standard's members: from an answer, from the answers before it, and from the callback.

Owns where in an answer the token's members stand, and how long the others are kept. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.model import RESERVED
from broker.providers import lifetimes, members
from broker.token_answer import json_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from broker.secret import Secret

MOST_KEPT = 65_536
"""Length of the JSON of what is kept of earlier answers: a server that names members at random fills no store."""
_MIN_HIDDEN = 8
"""A secret shorter than this hides a member only if it is all of it."""


def lift(values: Mapping[str, object], path: str | None, warnings: list[str]) -> Mapping[str, object]:
    """Return the members of an answer as if those of the token stood at its top level.

    Slack's login answer has a user's tokens at `authed_user`, its refresh answer has them at the top: where *path*
    holds no token, the top level is read. A refresh token is read wherever it stands.

    Args:
        values: members of the answer.
        path: where the token's members should stand, names joined by dots; None: at the top level.
        warnings: receives what was odd.
    """
    inner = _at(values, path) if path else None
    if path is None or inner is None or not (inner.get("access_token") or inner.get("refresh_token")):
        return values
    top_has_token = bool(values.get("access_token"))
    if top_has_token and values.get("refresh_token") and not inner.get("refresh_token"):
        warnings.append(f"{path} has no refresh_token, the top level has one: the tokens are read from there")
        return values
    # Two access tokens are of two holders: what belongs to the one at the top says nothing of the other.
    other = top_has_token and bool(inner.get("access_token"))
    rest = {name: value for name, value in values.items() if not (other and _of_token(name))}
    return {**_without_token(rest, path.split(".")), **{name: inner[name] for name in inner if _of_token(name)}}


def _at(values: Mapping[str, object], path: str) -> Mapping[str, object] | None:
    found: object = values
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def _of_token(name: str) -> bool:
    return (name in RESERVED and not name.startswith("error")) or lifetimes.is_lifetime(name)


def _without_token(values: Mapping[str, object], path: list[str]) -> dict[str, object]:
    """Return *values* with the object at *path* reduced to the members that are not the token's."""
    inner = values[path[0]]
    if not isinstance(inner, dict):  # `_at` found one
        return dict(values)
    if len(path) > 1:
        return {**values, path[0]: _without_token(inner, path[1:])}
    return {**values, path[0]: {name: value for name, value in inner.items() if not _of_token(name)}}


def of_answer(values: Mapping[str, object], secrets: tuple[Secret, ...]) -> dict[str, object]:
    """Return what an answer holds for callers, without anything that repeats one of *secrets*."""
    others = {name: value for name, value in values.items() if name not in RESERVED}
    return members.strict(others, _repeats(secrets)) if others else others


def of_callback(query: Mapping[str, str], names: Iterable[str], secrets: tuple[Secret, ...]) -> dict[str, object]:
    """Return the parameters of a callback that the settings keep (*names*), likewise without *secrets*."""
    return of_answer({name: query[name] for name in names if name in query}, secrets)


def carry(before: Mapping[str, object], latest: Mapping[str, object]) -> Mapping[str, object]:
    """Return the members to serve after one more answer: its own, and of the earlier ones what it does not name.

    Some members come with a login's answer only (Strava's `athlete`). Lifetimes are not kept: they were true of the
    answer that said them.
    """
    kept = {name: value for name, value in before.items() if name not in latest and not lifetimes.is_lifetime(name)}
    if not kept or len(json_text(kept)) > MOST_KEPT:
        return latest
    return {**kept, **latest}


def _repeats(secrets: tuple[Secret, ...]) -> Callable[[str], bool]:
    plain = [secret.reveal() for secret in secrets if secret]
    long = [text for text in plain if len(text) >= _MIN_HIDDEN]
    return lambda text: text in plain or any(secret in text for secret in long)
