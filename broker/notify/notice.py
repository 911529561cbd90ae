"""A notice as its receiver reads it: what happened, to which grant or provider, and what to do about it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from broker.model.account import NOBODY, Ownership
from broker.notify.policy import Problem

if TYPE_CHECKING:
    from broker.notify.policy import Condition


@dataclass(frozen=True, slots=True)
class Notice:
    """One notice. Every try to send it has the same `id`; `at` is epoch ms. It never holds a token."""

    id: str
    event: str
    at: int
    grant_id: str | None = None
    provider: str | None = None
    reason: str | None = None
    detail: str = ""
    ends_at: int | None = None
    ownership: Ownership = NOBODY
    """Whose the grant is."""

    @classmethod
    def for_subject(
        cls,
        id_: str,
        event: str,
        at: int,
        subject: str,
        *,
        provider: str,
        condition: Condition,
        ownership: Ownership = NOBODY,
    ) -> Notice:
        """Make the notice of *event*, which happened to *subject* (`grant/…`, `ending/…` or `provider/…`)."""
        kind, _, name = subject.partition("/")
        problem = condition if isinstance(condition, Problem) else None
        return cls(
            id_,
            event,
            at,
            None if kind == "provider" else name,
            provider,
            reason=problem.reason if problem else None,
            detail=problem.detail if problem else "",
            ends_at=problem.ends_at if problem else None,
            ownership=ownership,
        )

    def body(self) -> bytes:
        """Return the JSON, times in epoch seconds.

        `error` and `error_description` come from the provider, bounded and escaped.
        """
        error, _, description = self.detail.partition(": ")
        what, do = _describe(self)
        account = self.ownership.account
        members: dict[str, Any] = {
            "id": self.id,
            "event": self.event,
            "at": self.at // 1000,
            "grant_id": self.grant_id,
            "provider": self.provider,
            "account": account.members() if account else None,
            "owner": self.ownership.owner,
            "label": self.ownership.label,
            "reason": self.reason,
            "error": error or None,
            "error_description": description or None,
            "what": what,
            "do": do,
        }
        if self.event == "reauthorize_soon" and self.ends_at is not None:
            members["reauthorize_by"] = self.ends_at // 1000
        return json.dumps({key: value for key, value in members.items() if value is not None}).encode()


def _describe(notice: Notice) -> tuple[str, str]:
    """Return what happened, and what to do about it, for people."""
    provider, whose = notice.provider, notice.ownership.words()
    log_in = f"token-broker login {notice.grant_id} --provider {provider}"
    grant = f"{notice.grant_id} ({whose})" if whose else notice.grant_id
    served = f" Its token is served until {_time(notice.ends_at)}." if (notice.ends_at or 0) > notice.at else ""
    why = f" ({notice.detail})" if notice.detail else ""
    match notice.event:
        case "reauthorization_required":
            return f"Grant {grant} at {provider} has ended: a person must log in again{why}.{served}", log_in
        case "reauthorize_soon":
            return f"Grant {grant} at {provider} ends at {_time(notice.ends_at)} unless a person logs in again.", log_in
        case "refresh_failing" if notice.reason == "unreadable" or "sealed_with_missing_key" in notice.detail:
            what = f"Grant {grant} at {provider} cannot be opened with any of this broker's sealing keys.{served}"
            return what, f"put the old key back into sealing.keys_file, then token-broker retry {notice.grant_id}"
        case "refresh_failing" if notice.reason == "tampered":
            what = f"What Redis holds of grant {grant} at {provider} was altered{why}: it is neither served nor sent."
            return what, f"find out who writes Redis, then {log_in}"
        case "refresh_failing" if _is_retried(notice):
            what = f"Refreshing grant {grant} at {provider} keeps failing{why}; the broker keeps retrying.{served}"
            return what, f"token-broker status: check whether {provider} works and can be reached from the broker"
        case "refresh_failing":
            what = f"{provider} rejected the refresh of grant {grant}{why}; the broker does not retry.{served}"
            return (
                what,
                f"fix what the provider reports, then token-broker retry {notice.grant_id}; or log in again: {log_in}",
            )
        case "provider_suspended":
            what = (
                f"Provider {provider} rejects this broker's requests{why}: the broker refreshes none of its grants "
                "and probes from time to time."
            )
            return (
                what,
                f"check client id and secret of [providers.{provider}]; token-broker retry --provider {provider}",
            )
        case "recovered":
            return f"{f'Grant {grant} at' if grant else 'Provider'} {provider} has recovered.", "nothing"
        case _:
            return "This is a test: notices of this broker arrive here.", "nothing"


def _is_retried(notice: Notice) -> bool:
    return notice.reason in {"not_sent", "busy", "unknown", "unusable", "unchanged", "registration"}


def _time(at: int | None) -> str:
    return datetime.fromtimestamp((at or 0) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
