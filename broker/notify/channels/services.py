"""Channels that POST a service's own form of JSON: Slack, Teams, ntfy, PagerDuty, Alertmanager."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.notify.channels.receiver import Receiver
    from broker.notify.notice import Notice
    from broker.secret import Secret


class Service:
    """One service. Any 2xx response to each of its POSTs accepts the notice."""

    def __init__(
        self, name: str, receiver: Receiver, form: Callable[[Notice], Iterable[Any]], *, token: Secret | None = None
    ) -> None:
        """Prepare to POST to *receiver*.

        Args:
            name: of the channel.
            receiver: gets the POSTs.
            form: makes the bodies of a notice, one for each POST; none: there is nothing to send.
            token: for the Authorization header.
        """
        self.name = name
        self._receiver = receiver
        self._form = form
        self._token = token

    async def send(self, notice: Notice) -> str:
        """Send the notice once.

        Returns:
            The last HTTP status in words.

        Raises:
            NotDelivered: the service did not accept a POST, or may not have accepted it.
        """
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token.reveal()}"}
        status = "nothing to send yet: other grants of the same incident have not recovered"
        for body in self._form(notice):
            status = await self._receiver.post(json.dumps(body).encode(), headers)
        return status
