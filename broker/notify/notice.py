"""A notice as its receiver reads it: what happened, to whom, and what to do about it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from broker.notify.policy import Problem

if TYPE_CHECKING:
    from broker.notify.policy import Condition


@dataclass(frozen=True, slots=True)
class Notice:
    """One notice. `id` is the same however often it is sent; `at` is epoch ms. No token is ever part of it."""

    id: str
    event: str
    at: int
    grant_id: str | None = None
    provider: str | None = None
    reason: str | None = None
    detail: str = ""
    ends_at: int | None = field(default=None)

    def body(self) -> bytes:
        """As JSON, times in epoch seconds. `error` and `error_description` are the provider's, bounded and escaped."""
        error, _, description = self.detail.partition(": ")
        what, do = _words(self)
        told: dict[str, Any] = {
            "id": self.id,
            "event": self.event,
            "at": self.at // 1000,
            "grant_id": self.grant_id,
            "provider": self.provider,
            "reason": self.reason,
            "error": error or None,
            "error_description": description or None,
            "what": what,
            "do": do,
        }
        if self.event == "reauthorize_soon" and self.ends_at is not None:
            told["reauthorize_by"] = self.ends_at // 1000
        return json.dumps({key: value for key, value in told.items() if value is not None}).encode()


def notice(id_: str, event: str, at: int, subject: str, provider: str, condition: Condition) -> Notice:
    """The notice of *event*, which happened to *subject* (`grant/…`, `ending/…` or `provider/…`)."""
    kind, _, name = subject.partition("/")
    wrong = condition if isinstance(condition, Problem) else None
    return Notice(
        id_,
        event,
        at,
        None if kind == "provider" else name,
        provider,
        reason=wrong.reason if wrong else None,
        detail=wrong.detail if wrong else "",
        ends_at=wrong.ends_at if wrong else None,
    )


def _words(notice: Notice) -> tuple[str, str]:
    """What happened, and what to do, for people."""
    grant, provider = notice.grant_id, notice.provider
    log_in = f"token-broker login {grant} --provider {provider}"
    served = f" Its token is served until {_time(notice.ends_at)}." if (notice.ends_at or 0) > notice.at else ""
    why = f" ({notice.detail})" if notice.detail else ""
    match notice.event:
        case "reauthorization_required":
            return f"Grant {grant} at {provider} is dead: a person must log in again{why}.{served}", log_in
        case "reauthorize_soon":
            return f"Grant {grant} at {provider} ends at {_time(notice.ends_at)} unless a person logs in again.", log_in
        case "refresh_failing" if notice.reason == "unreadable" or "sealed_with_missing_key" in notice.detail:
            what = f"Grant {grant} at {provider} cannot be opened with any of our sealing keys.{served}"
            return what, f"put the old key back into sealing.keys_file, then token-broker retry {grant}"
        case "refresh_failing" if _goes_on(notice):
            what = f"Refreshing grant {grant} at {provider} keeps failing{why}; the broker goes on trying.{served}"
            return what, f"token-broker status: see whether {provider} and the way to it are well"
        case "refresh_failing":
            what = f"{provider} rejected the refresh of grant {grant}{why}; it is not asked again.{served}"
            return what, f"mend what it says, then token-broker retry {grant}; or log in again: {log_in}"
        case "provider_suspended":
            what = f"Provider {provider} refuses us{why}: none of its grants is refreshed, probes go on."
            return (
                what,
                f"check client id and secret of [providers.{provider}]; token-broker retry --provider {provider}",
            )
        case "recovered":
            return f"{f'Grant {grant} at' if grant else 'Provider'} {provider} is well again.", "nothing"
        case _:
            return "This is a test: notices of this broker arrive here.", "nothing"


def _goes_on(notice: Notice) -> bool:
    return notice.reason in {"not_sent", "busy", "unknown", "unusable", "unchanged", "registration"}


def _time(at: int | None) -> str:
    return datetime.fromtimestamp((at or 0) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
