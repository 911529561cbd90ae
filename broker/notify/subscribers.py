"""Tell a grant's subscribers that a person must log in soon: the one event that no token request causes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import StoreUnavailable
from broker.notify.channels.channel import NotDelivered
from broker.token_answer import message

if TYPE_CHECKING:
    from broker.notify.notice import Notice
    from broker.store import Store


class Subscribers:
    """Publish on the grant's channel in Redis."""

    name = "subscribers"

    def __init__(self, store: Store) -> None:
        self._store = store

    async def send(self, notice: Notice) -> str:
        """Publish the notice, whether or not anybody subscribes.

        Raises:
            NotDelivered: the store is unavailable.
        """
        grant_id, ends_at = notice.grant_id or "", notice.ends_at or 0
        try:
            held = await self._store.registry.generation(grant_id)
            published = message(
                "reauthorize_soon",
                grant_id,
                notice.provider or "",
                held[1] if held else 0,
                reauthorize_by=ends_at // 1000,
            )
            await self._store.notices.publish(grant_id, published)
        except StoreUnavailable as error:
            raise NotDelivered(str(error)) from None
        return "published"
