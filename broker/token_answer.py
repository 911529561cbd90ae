"""The token answer as callers and subscribers read it: the members of RFC 6749 §5.1 and this broker's, on one level.

Times on the wire are epoch seconds, rounded down.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.model import Event, Token

Message = dict[str, Any]
"""A pub/sub message, but for the id of the store: the store puts that in when it publishes (`message_text`)."""
_GRACE_MS = 10_000
_NO_DATACLASSES = orjson.OPT_PASSTHROUGH_DATACLASS
"""Without it orjson would write out a dataclass by itself, and any secret in it."""


def json_text(value: dict[str, Any], default: Callable[[Any], Any] | None = None) -> str:
    """Return *value* as JSON, for what is written at every refresh.

    What orjson refuses (numbers of more than 64 bits, halves of surrogate pairs) is left to the standard library,
    with which a refresh takes 1.08 times the CPU (`python -m tests.benchmarks.tricks orjson`). NaN becomes null.

    Args:
        value: The members.
        default: Converts a value that JSON does not know.

    Raises:
        TypeError: a value that neither JSON nor *default* knows, a `Secret` above all.
    """
    try:
        return orjson.dumps(value, default, _NO_DATACLASSES).decode()
    except TypeError:
        return json.dumps(value, default=default)


def json_value(data: bytes) -> Any:
    """Return the value of JSON text, read likewise; a number of more than 64 bits may come out rounded.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        return orjson.loads(data)
    except ValueError:
        return json.loads(data)


def usable_ms(token: Token, now: int) -> int:
    """Return how long a caller may count on *token* (ms, negative when it has expired).

    Where a refresh ends the old token, that is until the planned refresh (`usable_until`). Once that refresh is
    overdue it can come at any moment, and what is advertised is a few seconds.
    """
    return min(token.remaining_ms(now), max(token.usable_until - now, _GRACE_MS))


def token_answer(token: Token, now: int) -> dict[str, Any]:
    """Return the members of a token answer, `expires_in` counted from *now* (epoch ms).

    `expires_at` is the same moment: libraries read it first.
    """
    usable = usable_ms(token, now)
    ends_early = token.usable_until < token.expires_at
    answer: dict[str, Any] = {
        "access_token": token.access_token.reveal(),
        "token_type": token.token_type,
        "expires_in": max(0, usable // 1000),
        "expires_at": (min(token.expires_at, now + usable) if ends_early else token.expires_at) // 1000,
        "grant_id": token.grant_id,
        "generation": token.generation,
        "provider": token.provider,
    }
    if token.scope is not None:
        answer["scope"] = token.scope
    return {**token.extra, **answer}


def message(event: Event, grant_id: str, provider: str, generation: int, **more: Any) -> Message:
    """Return a pub/sub message without a token."""
    return {**more, "event": event, "grant_id": grant_id, "provider": provider, "generation": generation}


def token_message(event: Event, token: Token, now: int, *, notice: bool) -> Message:
    """Return a pub/sub message with the token answer inside, or without it if *notice* is set."""
    inside = {"generation": token.generation} if notice else token_answer(token, now)
    return {**inside, "event": event, "grant_id": token.grant_id, "provider": token.provider}


def message_text(message: Message, store_id: str) -> str:
    """Return *message* as it is published by the store *store_id*."""
    return json_text({**message, "store": store_id})
