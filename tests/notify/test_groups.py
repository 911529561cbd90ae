"""One notice for many grants of a provider: nothing is lost or said twice, whoever restarts and whatever is down."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from broker.notify import grouped, policy, scanner, sender
from broker.notify.policy import LastNotice
from tests.notify.steps import check_now
from tests.steps import make_due
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker
    from tests.notify.conftest import Receiver
    from tests.notify.services import Services

GRANTS = [f"g{number:02}" for number in range(30)]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses, and let a group need several leases of the store."""
    monkeypatch.setattr(scanner, "_ROUND_MS", 200)
    monkeypatch.setattr(sender, "_PAUSE", 0.1)
    monkeypatch.setattr(sender, "_FAILING_PAUSE", (0.1, 0.2))
    monkeypatch.setattr(policy, "BACKOFF_FIRST", 200)
    monkeypatch.setattr(policy, "RECHECK", 500)
    monkeypatch.setattr(grouped, "BATCH", 7)


async def import_all(broker: RunningBroker, sandbox: Sandbox, grants: list[str]) -> None:
    """Import the grants."""
    for grant in grants:
        await broker.import_(grant, "acme", sandbox.rotating.issue().refresh_token or "")


async def fail(redis: Redis, *grants: str) -> None:
    """Let each of the grants have failed three times in a row."""
    failed: dict[Any, Any] = {"failures": "3", "last_outcome": "busy"}
    await asyncio.gather(*(redis.hset(f"broker:{{0}}:grant:{grant}", mapping=failed) for grant in grants))


async def records(redis: Redis, channel: str) -> dict[str, LastNotice]:
    """Return what the channel remembers of each subject."""
    kept: dict[Any, Any] = await redis.hgetall(f"broker:{{0}}:told:{channel}")
    return {subject.decode(): LastNotice.parse(record.decode()) for subject, record in kept.items()}


async def reported(redis: Redis, channel: str, count: int) -> bool:
    """Return whether people know of this many subjects, and no notice is pending."""
    kept = (await records(redis, channel)).values()
    return len(kept) == count and all(each.level and not each.news for each in kept)


def named(posts: list[dict[str, Any]]) -> list[str]:
    """Return every grant of these notices, as often as it is named."""
    return [grant for notice in posts for grant in notice.get("grant_ids") or [notice["grant_id"]]]


async def test_many_grants_are_one_notice(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, receiver: Receiver
) -> None:
    """Thirty grants that fail at once are one signed notice with all ids, though two brokers look; so is their end."""
    channel = {"kind": "webhook", "url": receiver.url, "key_file": receiver.secret_file, "group": "2s"}
    settings = {"channels": {"team": channel}}
    async with start_broker(notify=settings) as one, start_broker(notify=settings):
        await import_all(one, sandbox, GRANTS)
        await fail(redis, *GRANTS)
        await until(lambda: reported(redis, "team", 30), 30)
        assert sorted(named(receiver.notices)) == GRANTS
        # The fields are written at once, but a boundary between two groups may fall between two looks at them.
        assert len(receiver.posts) <= 2
        largest = max(receiver.notices, key=lambda notice: notice.get("total", 1))
        assert largest["event"] == "refresh_failing"
        assert largest["url"].endswith("/#provider=acme")
        assert f"Refreshing {largest['total']} grants at acme keeps failing" in largest["what"]
        assert "grant_id" not in largest
        count = len(receiver.posts)
        await make_due(redis, "acme", *GRANTS)
        await until(partial(_none_left, redis, "team"), 30)
        assert {notice["event"] for notice in receiver.notices[count:]} == {"recovered"}
        assert sorted(named(receiver.notices[count:])) == GRANTS
        assert len(receiver.posts) - count <= 3  # they recover one by one, and perhaps over a boundary
    receiver.verify()


async def _none_left(redis: Redis, channel: str) -> bool:
    return not await redis.exists(f"broker:{{0}}:told:{channel}", f"broker:{{0}}:subjects:{channel}")


async def test_a_receiver_that_is_down(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, receiver: Receiver
) -> None:
    """A group is repeated under one id, also by the next broker; a grant that recovers meanwhile is not in it."""
    receiver.status = 500
    settings = {"channels": {"team": {"kind": "webhook", "url": receiver.url, "group": "1s"}}}
    async with start_broker() as broker:
        await import_all(broker, sandbox, GRANTS[:3])
        await fail(redis, *GRANTS[:3])
    async with start_broker(notify=settings):
        await until(lambda: len([post for post in receiver.notices if post.get("total") == 3]) == 1)
        await until(lambda: len(receiver.posts) >= 2)
    tried = {notice["id"] for notice in receiver.notices if notice.get("total") == 3}
    async with start_broker(notify=settings) as broker:
        before = len(receiver.posts)
        await _due(redis)
        await until(lambda: len(receiver.posts) > before)
        assert {json.loads(body)["id"] for _, body in receiver.posts[before:]} == tried
        await make_due(redis, "acme", "g00")
        await until(lambda: _refreshed(redis, "g00"))
        receiver.status = 204
        await _due(redis)
        await until(lambda: reported(redis, "team", 2))
        delivered = json.loads(receiver.posts[-1][1])
        assert delivered["id"] not in tried
        assert delivered["grant_ids"] == ["g01", "g02"]
        (sent,) = broker.events("notice.sent")
        assert sent["notice"] == delivered["id"]


async def _due(redis: Redis) -> None:
    await redis.zadd("broker:{0}:subjects:team", {f"grant/{grant}": 0 for grant in GRANTS[:3]}, xx=True)


async def _refreshed(redis: Redis, grant: str) -> bool:
    return await redis.hget(f"broker:{{0}}:grant:{grant}", "failures") in {None, b"0"}


async def test_an_incident_ends_with_its_last_grant(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, services: Services, tmp_path: Path
) -> None:
    """PagerDuty gets one incident of three grants, and its end only when the last of them has recovered."""
    (tmp_path / "key").write_text("key-of-the-tests\n")
    channel = {"kind": "pagerduty", "url": services.url, "key_file": tmp_path / "key", "group": "0s"}
    async with start_broker() as broker:
        await import_all(broker, sandbox, GRANTS[:3])
        await fail(redis, *GRANTS[:3])
    got = services.got["pagerduty"]
    async with start_broker(notify={"channels": {"oncall": channel | {"group": "1s"}}}) as broker:
        await until(lambda: reported(redis, "oncall", 3))
        opened = {event["dedup_key"] for event in got}
        details = got[0]["payload"]["custom_details"]
        assert (len(got), details["total"], sorted(details["grants"])) == (1, 3, GRANTS[:3])
        for left, grant in ((2, "g00"), (1, "g01"), (0, "g02")):
            assert len(got) == 1
            await make_due(redis, "acme", grant)
            await until(partial(_refreshed, redis, grant))
            await check_now(redis, f"grant/{grant}", "oncall")
            await until(partial(_remaining, redis, left))
        assert [event["event_action"] for event in got] == ["trigger", "resolve"]
        assert {event["dedup_key"] for event in got} == opened
        details = [event["detail"] for event in broker.events("notice.sent")]
        assert details[1].startswith("nothing to send yet")


async def _remaining(redis: Redis, count: int) -> bool:
    return len(await records(redis, "oncall")) == count
