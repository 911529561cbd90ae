"""A notice as its receiver reads it: what happened, to which grants or provider, and what to do about it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from broker.model.account import NOBODY, Ownership
from broker.notify.policy import Problem
from broker.notify.words import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.notify.policy import Condition

MAX_IDS = 100
"""How many grants of a group a notice names by id in `grant_ids`."""


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
    url: str | None = None
    """The status page, at the grant or provider."""
    incident: str = ""
    """Of a channel that groups: what the problem is known by, see `timing`; of an end, the problem that ends."""
    was: str = ""
    """The incident of the same subject that this one replaces."""
    ended: tuple[str, ...] = ()
    """Incidents that have no subject left."""
    group: tuple[Notice, ...] = ()
    """The notices of several grants, which this one stands for."""

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
        page: str | None = None,
    ) -> Notice:
        """Make the notice of *event*, which happened to *subject* (`grant/…`, `ending/…` or `provider/…`)."""
        kind, _, name = subject.partition("/")
        grant_id = None if kind == "provider" else name
        problem = condition if isinstance(condition, Problem) else None
        return cls(
            id_,
            event,
            at,
            grant_id,
            provider,
            reason=problem.reason if problem else None,
            detail=problem.detail if problem else "",
            ends_at=problem.ends_at if problem else None,
            ownership=ownership,
            url=page_url(page, grant_id, provider),
        )

    @classmethod
    def for_group(cls, id_: str, notices: Sequence[Notice], page: str | None, ended: tuple[str, ...] = ()) -> Notice:
        """Make one notice of several with the same event and provider; a single one only gets its id.

        Args:
            id_: of the notice.
            notices: one for each grant, the first due first.
            page: URL of the status page; None: unknown.
            ended: incidents that have no subject left.
        """
        first = notices[0]
        if len(notices) == 1:
            return replace(first, id=id_, ended=ended)
        reasons, details = {each.reason for each in notices}, {each.detail for each in notices}
        ends = [each.ends_at for each in notices if each.ends_at is not None]
        return cls(
            id_,
            first.event,
            first.at,
            provider=first.provider,
            reason=first.reason if len(reasons) == 1 else None,
            detail=first.detail if len(details) == 1 else "",
            ends_at=min(ends, default=None),
            url=page_url(page, None, first.provider),
            incident=first.incident,
            ended=ended,
            group=tuple(notices),
        )

    @property
    def members(self) -> tuple[Notice, ...]:
        """The notices of single subjects that this one stands for; itself, where it is of one."""
        return self.group or (self,)

    def words(self) -> tuple[str, str]:
        """Return what happened, and what to do about it, for people."""
        return describe(self)

    def body(self) -> bytes:
        """Return the JSON, times in epoch seconds.

        `error` and `error_description` come from the provider, bounded and escaped.
        """
        error, _, description = self.detail.partition(": ")
        what, do = self.words()
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
            "url": self.url,
        }
        if self.event == "reauthorize_soon" and self.ends_at is not None:
            members["reauthorize_by"] = self.ends_at // 1000
        if self.group:
            members["grant_ids"] = [each.grant_id for each in self.group[:MAX_IDS]]
            members["total"] = len(self.group)
        return json.dumps({key: value for key, value in members.items() if value is not None}).encode()


def page_url(page: str | None, grant_id: str | None, provider: str | None) -> str | None:
    """Return the address of the status page that shows a grant, else a provider; None where *page* is unknown."""
    if page is None:
        return None
    fields = {"search": grant_id} if grant_id else {"provider": provider} if provider else {}
    return page.rstrip("/") + "/" + (f"#{urlencode(fields)}" if fields else "")
