"""What ends a problem is heard of as `recovered`, once, by subscribers and by people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.notify import scanner, sender
from tests.notify.steps import check_now, kill
from tests.steps import make_due, subscribed
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import StartBroker
    from tests.notify.conftest import Receiver


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between rounds of the scanner, and between checks."""
    monkeypatch.setattr(scanner, "_ROUND_MS", 200)
    monkeypatch.setattr(sender, "_PAUSE", 0.1)


@pytest.mark.parametrize("how", ["retry", "retry of the provider", "import"])
async def test_what_a_person_heals_is_a_recovery(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, receiver: Receiver, how: str
) -> None:
    """A retry or an import that heals a grant is heard as `recovered`, once, by subscribers and by people."""
    async with start_broker(notify=receiver.settings) as broker, subscribed(redis, "g1") as heard:
        await kill(broker, sandbox, redis, "g1")
        await until(lambda: receiver.notices)
        if how == "retry":
            await broker.ask("POST", "/v1/grants/g1/retry")
        elif how == "import":
            await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        else:
            await redis.hset("broker:{0}:grant:g1", "reason", "sealed_with_missing_key")
            await broker.ask("POST", "/v1/providers/acme/retry")
        events: list[str] = []

        def has_recovered() -> bool:
            events[:] = [message["event"] for message in heard]
            return events[-2:] == ["refreshed", "recovered"]

        await until(has_recovered)
        assert events == ["refreshed", "reauthorization_required", "refreshed", "recovered"]
        assert heard[-1]["generation"] == heard[-2]["generation"]
        await check_now(redis, "grant/g1")
        await until(lambda: len(receiver.events) == 2)
        await make_due(redis, "acme", "g1")
        await until(lambda: len(heard) == 5)
        assert heard[-1]["event"] == "refreshed"
        assert receiver.events == ["reauthorization_required", "recovered"]
