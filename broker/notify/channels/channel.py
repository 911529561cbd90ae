"""What every channel has in common: its name, `send`, and the error of a notice that did not arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from broker.errors import StoreUnavailable

if TYPE_CHECKING:
    from broker.notify.notice import Notice


class NotDelivered(Exception):
    """The receiver did not accept a notice, or it is unknown whether it did: retry. The message says why."""


class Channel(Protocol):
    """One means of delivering notices."""

    name: str

    async def send(self, notice: Notice) -> str:
        """Deliver *notice* once.

        Returns:
            The receiver's response in words.

        Raises:
            NotDelivered: the receiver did not accept it, or may not have accepted it.
        """


async def deliver(channel: Channel, notice: Notice) -> str:
    """Deliver *notice* once through *channel*, and return the receiver's response in words.

    Raises:
        NotDelivered: it was not delivered, for whatever reason: an error in a channel must not end the broker.
        StoreUnavailable: Redis does not answer, which a notice to subscribers goes through.
    """
    try:
        return await channel.send(notice)
    except (NotDelivered, StoreUnavailable):
        raise
    except Exception as error:
        raise NotDelivered(f"unexpected error {type(error).__name__}") from error
