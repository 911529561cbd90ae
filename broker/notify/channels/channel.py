"""What every way of telling has in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from broker.notify.notice import Notice


class NotDelivered(Exception):
    """The receiver has not taken a notice, or nobody knows whether it has: it is sent again. The message says why."""


class Channel(Protocol):
    """A way of telling."""

    name: str

    async def tell(self, notice: Notice) -> str:
        """Hand *notice* over, once; how that went, in words. Raises `NotDelivered`."""
