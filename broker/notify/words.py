"""The sentences of a notice: what happened, and what to do about it. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.notify.notice import Notice

NAMED = 20
"""How many grants of a group the sentence names."""


def describe(notice: Notice) -> tuple[str, str]:
    """Return what happened, and what to do about it, for people."""
    return _describe_group(notice) if notice.group else _describe(notice)


def title(notice: Notice) -> str:
    """Return a headline of a few words."""
    many = len(notice.group)
    about = f"{many} grants at {notice.provider}" if many else notice.grant_id or f"provider {notice.provider}"
    match notice.event:
        case "reauthorization_required":
            return f"Log in again: {about}"
        case "reauthorize_soon":
            return f"Log in again soon: {about}"
        case "refresh_failing":
            return f"Refresh {'keeps failing' if all(map(is_retried, notice.members)) else 'was rejected'}: {about}"
        case "provider_suspended":
            return f"Suspended: {about}"
        case "recovered":
            return f"Recovered: {about}"
        case _:
            return "Test notice of token-broker"


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
        case "refresh_failing" if is_retried(notice):
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


def is_retried(notice: Notice) -> bool:
    """Return whether the broker itself goes on to refresh the grant."""
    return notice.reason in {"not_sent", "busy", "unknown", "unusable", "unchanged", "registration"}


def _time(at: int | None) -> str:
    return datetime.fromtimestamp((at or 0) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _describe_group(notice: Notice) -> tuple[str, str]:
    """Return the same for several grants of one provider."""
    provider, grants = notice.provider, notice.group
    more = f" and {len(grants) - NAMED} more" if len(grants) > NAMED else ""
    named = ", ".join(_named(each) for each in grants[:NAMED]) + more
    why = f" ({notice.detail})" if notice.detail else ""
    counted, log_in = f"{len(grants)} grants at {provider}", f"token-broker login GRANT_ID --provider {provider}"
    match notice.event:
        case "reauthorization_required":
            return f"{counted} have ended: a person must log in again to each{why}: {named}.", log_in
        case "reauthorize_soon":
            ends = _time(notice.ends_at)
            return f"{counted} end unless a person logs in again, the first at {ends}: {named}.", log_in
        case "refresh_failing" if all(is_retried(each) for each in grants):
            what = f"Refreshing {counted} keeps failing{why}; the broker keeps retrying: {named}."
            return what, f"token-broker status: check whether {provider} works and can be reached from the broker"
        case "refresh_failing":
            what = f"The refresh of {counted} failed and is not retried{why}: {named}."
            return what, "token-broker explain GRANT_ID says why; then token-broker retry GRANT_ID, or log in again"
        case _:
            return f"{counted} have recovered: {named}.", "nothing"


def _named(notice: Notice) -> str:
    whose = notice.ownership.label or notice.ownership.owner
    return f"{notice.grant_id} ({whose})" if whose else str(notice.grant_id)
