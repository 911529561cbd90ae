"""Whose the grant is that a notice is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.steps import log_in, make_due
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import StartBroker
    from tests.notify.conftest import Receiver


async def test_a_notice_says_whose_the_grant_is(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, receiver: Receiver
) -> None:
    """Account, owner and label stand in the notice of a dead grant, and in its words."""
    async with start_broker(notify=receiver.settings) as broker:
        await log_in(broker, "g1", "acme")
        await broker.ask("PUT", "/v1/grants/g1", json={"owner": "Jane Doe", "label": "front door"})
        sandbox.rotating.faults.order("status", status=400, body={"error": "invalid_grant"})
        await make_due(redis, "acme", "g1")
        await until(lambda: receiver.notices)
        (notice,) = receiver.notices
        assert (notice["account"]["id"], notice["owner"], notice["label"]) == ("demo", "Jane Doe", "front door")
        whose = "account demo@example.com (demo), owner Jane Doe, label front door"
        assert notice["what"].startswith(f"Grant g1 ({whose}) at acme has ended")
        assert notice["do"] == "token-broker login g1 --provider acme"
    receiver.verify()
