"""Telling a grant's subscribers that a person must log in soon: the one event no token request brings about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import StoreUnavailable
from broker.notify.channels.channel import NotDelivered
from broker.token_answer import message

if TYPE_CHECKING:
    from broker.notify.notice import Notice
    from broker.store import Store


class Subscribers:
    """Publishes on the grant's channel."""

    name = "subscribers"

    def __init__(self, store: Store) -> None:
        self._store = store

    async def tell(self, notice: Notice) -> str:
        """Publish it, whoever hears it. Raises `NotDelivered`."""
        grant_id, ends_at = notice.grant_id or "", notice.ends_at or 0
        try:
            held = await self._store.registry.generation(grant_id)
            told = message(
                "reauthorize_soon",
                grant_id,
                notice.provider or "",
                held[1] if held else 0,
                reauthorize_by=ends_at // 1000,
            )
            await self._store.notices.publish(grant_id, told)
        except StoreUnavailable as error:
            raise NotDelivered(str(error)) from None
        return "published"
