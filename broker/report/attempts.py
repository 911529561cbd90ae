"""Token requests of the past in words: what each came to, and what the broker decided after it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.report.times import clock

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import tzinfo

OUTCOMES = {
    "refreshed": "a new token came",
    "unchanged": "the provider sent the same token once more",
    "unusable": "a response came whose token cannot be used",
    "not_sent": "nothing was sent",
    "busy": "the provider asked to come later",
    "unknown": "it was sent, and no response says what came of it",
    "dead": "the provider no longer accepts the refresh token",
    "registration": "the provider refused this broker's client registration",
    "rejected": "the provider rejected the request",
    "unreadable": "none of this broker's sealing keys opens it",
    "tampered": "what Redis holds of it was altered, and nothing was sent",
    "logged_in": "a person logged in",
}
DECISIONS = {
    "kept": "stored",
    "postponed": "to be tried again",
    "undecided": "to be tried again: it means the grant or the client registration",
    "postponed_alone": "to be tried again: other grants succeed meanwhile",
    "parked": "parked until a person acts",
    "parked_alone": "parked until a person acts: other grants succeed meanwhile",
    "suspended": "nothing is refreshed at the provider until it answers a probe",
    "restored": "restored to Redis from a journal",
    "open": "its broker never reported how it ended",
}


def outcome(attempt: Mapping[str, Any]) -> str:
    """Return what an attempt came to, with the provider's own words."""
    words, quoted = OUTCOMES.get(attempt["outcome"], attempt["outcome"]), provider_words(attempt)
    return f"{words} ({quoted})" if quoted else str(words)


def provider_words(attempt: Mapping[str, Any]) -> str:
    """Return the error and its description as the provider sent them; empty where it sent none."""
    return ": ".join(text for text in (attempt["error"], attempt["error_description"]) if text)


def decision(attempt: Mapping[str, Any], now: float, zone: tzinfo | None = None) -> str:
    """Return what the broker decided after an attempt, and for when it planned the next one."""
    words = DECISIONS.get(attempt["decided"], attempt["decided"])
    if attempt["next_at"] is None:
        return str(words)
    link = " at" if attempt["decided"] == "postponed" else ", next at"
    return f"{words}{link} {clock(attempt['next_at'], now, zone)}"
