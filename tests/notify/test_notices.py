"""Notices end to end: real receivers that fail and return, brokers that restart, people who hear of a change once."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import InvalidSettings
from broker.notify import policy, scanner, sender
from broker.notify.channels.webhook import Webhook
from broker.notify.notice import Notice
from tests.notify.steps import check_now, kill
from tests.steps import log_in, make_due, state_of, subscribed
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker
    from tests.notify.conftest import Receiver

DAY = 86_400_000


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses: between rounds of the scanner, between checks, and before a failed notice is tried again."""
    monkeypatch.setattr(scanner, "_ROUND_MS", 200)
    monkeypatch.setattr(sender, "_PAUSE", 0.1)
    monkeypatch.setattr(sender, "_FAILING_PAUSE", (0.1, 0.2))
    monkeypatch.setattr(policy, "BACKOFF_FIRST", 200)


async def nothing_reported(redis: Redis, channel: str = "webhook") -> bool:
    """Return whether the channel has no subject that people were notified of and that has not recovered."""
    return not await redis.exists(f"broker:{{0}}:told:{channel}", f"broker:{{0}}:subjects:{channel}")


async def test_dead_grant_and_its_recovery(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, receiver: Receiver
) -> None:
    """A dead grant causes one signed notice that says what to do; a restart repeats none; a login ends it."""
    async with start_broker(notify=receiver.settings) as broker:
        await kill(broker, sandbox, redis, "g1")
        await until(lambda: receiver.notices)
        (notice,) = receiver.notices
        expires_at = time.strftime("%Y-%m-%dT%H:%M", time.gmtime((await state_of(broker, "g1"))["expires_at"]))
        assert {name: notice[name] for name in ("event", "grant_id", "provider", "reason", "error", "do")} == {
            "event": "reauthorization_required",
            "grant_id": "g1",
            "provider": "acme",
            "reason": "reauthorization_required",
            "error": "invalid_grant",
            "do": "token-broker login g1 --provider acme",
        }
        assert notice["error_description"] == "gone\\n"
        assert f"served until {expires_at}" in notice["what"]
        assert abs(notice["at"] - time.time()) < 20
        await check_now(redis, "grant/g1")
    async with start_broker(notify=receiver.settings) as broker:
        await check_now(redis, "grant/g1")
        await asyncio.sleep(0.3)
        assert len(receiver.posts) == 1
        await log_in(broker, "g1", "acme")
        await check_now(redis, "grant/g1")
        await until(lambda: len(receiver.notices) == 2)
        assert receiver.notices[1] | {"event": "recovered", "grant_id": "g1", "do": "nothing"} == receiver.notices[1]
        await until(lambda: nothing_reported(redis))
        assert 'notices_total{outcome="sent",way="webhook"} 1.0' in (await broker.get("/metrics"))["text"]
        (sent,) = broker.events("notice.sent")
        assert (sent["about"], sent["grant_id"], sent["way"]) == ("recovered", "g1", "webhook")
    receiver.verify()
    assert len(receiver.posts) == 2
    secrets = sandbox.secrets()
    assert not [s for s in secrets if len(s) > 5 and any(s.encode() in body for _, body in receiver.posts)]


async def test_failing_then_suspended_then_healthy(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, receiver: Receiver
) -> None:
    """Three failures in a row cause a notice, and so does a suspended provider; a recovery needs a real refresh."""
    async with start_broker(notify=receiver.settings) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        await redis.hset("broker:{0}:grant:g1", "failures", "2")
        sandbox.rotating.faults.order("status", status=503)
        await make_due(redis, "acme", "g1")
        await until(lambda: receiver.notices)
        notice = receiver.notices[0]
        assert (notice["event"], notice["reason"], notice["grant_id"]) == ("refresh_failing", "busy", "g1")
        assert "keeps retrying" in notice["what"]
        await broker.ask("POST", "/v1/grants/g1/retry")
        await until(lambda: _refreshed(broker, "g1"))
        await check_now(redis, "grant/g1")
        await until(lambda: receiver.events == ["refresh_failing", "recovered"])

        secret, sandbox.rotating.client_secret = sandbox.rotating.client_secret, "another-secret-altogether"
        await make_due(redis, "acme", "g1")
        await until(lambda: receiver.events[2:] == ["provider_suspended"])
        notice = receiver.notices[2]
        assert (notice["provider"], notice["reason"]) == ("acme", "invalid_client")
        assert "grant_id" not in notice
        assert "token-broker retry --provider acme" in notice["do"]
        sandbox.rotating.client_secret = secret
        await broker.ask("POST", "/v1/providers/acme/retry")
        await make_due(redis, "acme", "g1")
        await until(lambda: _refreshed(broker, "g1"))
        await check_now(redis, "provider/acme")
        await until(lambda: _seen_healthy(redis, "provider/acme"))
        assert len(receiver.notices) == 3
        record = json.loads(await redis.hget("broker:{0}:told:webhook", "provider/acme") or b"")
        await redis.hset("broker:{0}:told:webhook", "provider/acme", json.dumps(record | {"well_at": 1}))
        await check_now(redis, "provider/acme")
        await until(lambda: receiver.events[3:] == ["recovered"])
        assert receiver.notices[3]["what"] == "Provider acme has recovered."
    receiver.verify()


async def _refreshed(broker: RunningBroker, grant: str) -> bool:
    return bool(((await state_of(broker, grant))["last"] or {}).get("outcome") == "refreshed")


async def _seen_healthy(redis: Redis, subject: str) -> bool:
    return b"well_at" in (await redis.hget("broker:{0}:told:webhook", subject) or b"")


async def test_receiver_away(start_broker: StartBroker, sandbox: Sandbox, redis: Redis, receiver: Receiver) -> None:
    """While the receiver is down a notice waits under one id; what recovers meanwhile causes no notice at all."""
    await receiver.stop()
    async with start_broker(notify=receiver.settings) as broker:
        await kill(broker, sandbox, redis, "lasting")
        await kill(broker, sandbox, redis, "passing")
        await until(lambda: {e["grant_id"] for e in broker.events("notice.failed")} == {"lasting", "passing"})
        check = (await broker.get("/healthz"))["checks"]["notices webhook"]
        assert check["status"] == "degraded"
        assert "cannot be reached" in check["detail"]
        assert receiver.url not in broker.log.getvalue()
        await log_in(broker, "passing", "acme")
        ids = {e["notice"] for e in broker.events("notice.failed") if e["grant_id"] == "lasting"}
    async with start_broker(notify=receiver.settings) as broker:
        await redis.zadd("broker:{0}:subjects:webhook", dict.fromkeys(("grant/lasting", "grant/passing"), 0), xx=True)
        receiver.status = 500
        await receiver.start()
        await until(lambda: receiver.posts)
        receiver.status = 200
        await redis.zadd("broker:{0}:subjects:webhook", {"grant/lasting": 0}, xx=True)
        await until(lambda: broker.events("notice.sent"))
        assert [(t["event"], t["grant_id"]) for t in receiver.notices] == [("reauthorization_required", "lasting")]
        assert {t["id"] for t in receiver.notices} == ids
        await until(lambda: _healthy(broker))
    assert len(receiver.posts) >= 2
    receiver.verify()
    assert await redis.hkeys("broker:{0}:told:webhook") == [b"grant/lasting"]


async def _healthy(broker: RunningBroker) -> bool:
    return bool((await broker.get("/healthz"))["checks"]["notices webhook"]["status"] == "ok")


async def test_one_of_many_replicas_notifies(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, receiver: Receiver
) -> None:
    """Two replicas on one store send one notice of each change, though both see it; also after both restarted."""
    for grants in (("a", "b", "c"), ("d", "e")):
        async with start_broker(notify=receiver.settings) as one, start_broker(notify=receiver.settings) as two:
            for number, grant in enumerate(grants):
                await kill(two if number % 2 else one, sandbox, redis, grant)
                await redis.hdel("broker:{0}:provider:acme", "refused")
            await until(partial(_all_reported, receiver, grants))
            await asyncio.sleep(1.5)  # each replica's next check
    assert sorted(t["grant_id"] for t in receiver.notices) == ["a", "b", "c", "d", "e"]
    assert len(receiver.posts) == 5


def _all_reported(receiver: Receiver, grants: Sequence[str]) -> bool:
    return {notice["grant_id"] for notice in receiver.notices} >= set(grants)


async def test_scan_finds_what_nobody_reported(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A problem from before notices were configured is found page by page, and the new receiver is notified."""
    monkeypatch.setattr(scanner, "_PAGE", 2)
    monkeypatch.setattr(scanner, "_PAUSE", 0.02)
    async with start_broker() as broker:
        for grant in ("a", "b", "c", "d", "e", "f", "g"):
            await broker.import_(grant, "acme", sandbox.rotating.issue().refresh_token or "")
        await kill(broker, sandbox, redis, "dead")
        await redis.hset("broker:{0}:grant:f", "failures", "4")
        assert await nothing_reported(redis)
    async with start_broker(notify=receiver.settings) as broker:
        await until(lambda: {t.get("grant_id") for t in receiver.notices} == {"dead", "f"})
        await until(lambda: broker.events("notice.sent"))
    assert sorted(receiver.events) == ["reauthorization_required", "refresh_failing"]


async def test_coming_end(start_broker: StartBroker, sandbox: Sandbox, redis: Redis, receiver: Receiver) -> None:
    """Two weeks and three days before a grant's end people and subscribers get one notice each; describe says so."""
    async with start_broker(notify=receiver.settings) as broker, subscribed(redis, "v1") as heard:
        await log_in(broker, "v1", "een")
        described = await state_of(broker, "v1")
        assert described["reauthorize_soon"] is False
        granted, now = described["granted_at"] * 1000, int(time.time() * 1000)
        for left, count in ((13, 1), (2, 2)):
            moved: dict[Any, Any] = {"granted_at": now - (90 - left) * DAY, "reauthorize_by": now + left * DAY}
            await redis.hset("broker:{0}:grant:v1", mapping=moved)
            if count == 2:
                await check_now(redis, "ending/v1")
                await check_now(redis, "ending/v1", "subscribers")
            await until(partial(_end_is_reported, receiver, heard, count))
            assert receiver.notices[-1]["reauthorize_by"] == (now + left * DAY) // 1000
            assert receiver.notices[-1]["do"] == "token-broker login v1 --provider een"
        (first, second) = [m for m in heard if m["event"] == "reauthorize_soon"]
        assert (second["reauthorize_by"], second["provider"]) == ((now + 2 * DAY) // 1000, "een")
        assert "access_token" not in first
        described = await state_of(broker, "v1")
        assert (described["reauthorize_soon"], described["state"]) == (True, "due")
        await redis.hset("broker:{0}:grant:v1", mapping={"granted_at": granted, "reauthorize_by": granted + 14 * DAY})
        await check_now(redis, "ending/v1")
        await check_now(redis, "ending/v1", "subscribers")
        await until(lambda: nothing_reported(redis))
    assert receiver.events == ["reauthorize_soon"] * 2


def _end_is_reported(receiver: Receiver, heard: list[dict[str, Any]], count: int) -> bool:
    published = [message for message in heard if message["event"] == "reauthorize_soon"]
    return receiver.events == ["reauthorize_soon"] * count and len(published) == count


async def test_events_and_channels(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, receiver: Receiver, tmp_path: Path
) -> None:
    """Each channel delivers only the wanted events, and does not depend on the other channel."""
    heard = tmp_path / "heard"
    script = tmp_path / "page"
    script.write_text(f"#!/bin/sh\n[ -e {tmp_path}/open ] || exit 3\necho paged: $#\ncat >> {heard}\n")
    script.chmod(0o755)
    receiver.status = 307
    settings = receiver.settings | {"command": [str(script), "-x"], "events": ["reauthorization_required"]}
    async with start_broker(notify=settings) as broker:
        await redis.hset("broker:{0}:provider:acme", mapping={"suspended": "x", "suspended_at": "1"})
        await kill(broker, sandbox, redis, "g1")
        await until(lambda: {e["way"] for e in broker.events("notice.failed")} == {"webhook", "command"})
        assert {e["error"] for e in broker.events("notice.failed")} == {
            "exit 3",
            "the receiver responded with HTTP 307",
        }
        (tmp_path / "open").touch()
        await until(lambda: [e["detail"] for e in broker.events("notice.sent")] == ["exit 0: paged: 1"], 20)
        await log_in(broker, "g1", "acme")
    (notice,) = [json.loads(line) for line in heard.read_text().splitlines()]
    assert (notice["event"], notice["grant_id"]) == ("reauthorization_required", "g1")
    assert set(receiver.events) == {"reauthorization_required"}


async def test_test_notice(start_broker: StartBroker, receiver: Receiver) -> None:
    """`POST /v1/notify/test` sends through every channel at once and returns what each receiver responded."""
    async with start_broker(notify=receiver.settings | {"command": ["/bin/false"]}) as broker:
        status, body, _ = await broker.ask("POST", "/v1/notify/test")
        assert (status, body["ways"]) == (
            200,
            [
                {"way": "webhook", "told": True, "detail": "HTTP 204"},
                {"way": "command", "told": False, "detail": "exit 1"},
            ],
        )
        await receiver.stop()
        _, body, _ = await broker.ask("POST", "/v1/notify/test")
        assert [tested["told"] for tested in body["ways"]] == [False, False]
        assert broker.events("access")[-1]["did"] == "notices.tested"
    assert receiver.events == ["test"]
    receiver.verify()


async def test_an_unexpected_error(
    start_broker: StartBroker,
    sandbox: Sandbox,
    redis: Redis,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever a channel's library raises is logged with its traceback, and the broker goes on and tries again."""
    genuine, left = Webhook.send, [RuntimeError("closed"), ValueError("no")]

    async def send(channel: Webhook, notice: Notice) -> str:
        if left:
            raise left.pop()
        return await genuine(channel, notice)

    monkeypatch.setattr(Webhook, "send", send)
    async with start_broker(notify=receiver.settings) as broker:
        await kill(broker, sandbox, redis, "g1")
        await until(lambda: receiver.notices)
        errors = [(event["error"], event["exception"][:9]) for event in broker.events("notice.failed")]
        assert errors == [("unexpected error ValueError", "Traceback"), ("unexpected error RuntimeError", "Traceback")]
        await log_in(broker, "g1", "acme")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"command": ["/nowhere/page"]}, "notify.command: /nowhere/page does not exist"),
        ({"webhook": "https://x.test", "secret_file": "SECRET"}, "must hold whsec_ and 24 to 64 bytes in base64"),
        ({"webhook": "https://x.test", "secret_file": "/nowhere"}, "notify.secret_file: /nowhere cannot be read"),
    ],
)
async def test_a_channel_that_cannot_work(
    start_broker: StartBroker, tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    """A missing program or a malformed secret ends the start, with the cure and without quoting the secret."""
    for secret in ("hunter2", "whsec_short", "whsec_!!!" + "x" * 40):
        (tmp_path / "secret").write_text(secret)
        wanted = {name: str(tmp_path / "secret") if value == "SECRET" else value for name, value in settings.items()}
        with pytest.raises(InvalidSettings) as wrong:
            async with start_broker(notify=wanted, wait=False) as broker:
                await broker.task
        assert says in str(wrong.value)
        assert secret not in str(wrong.value)


async def test_redis_away(start_broker: StartBroker, own_redis: Any, receiver: Receiver) -> None:
    """Without Redis no notice is sent and no loop ends: each waits, and /healthz says for what."""
    async with start_broker(notify=receiver.settings, redis={"url": own_redis.url}) as broker:
        own_redis.kill()
        await until(lambda: _says(broker, "notices webhook", "Redis"))
        assert (await broker.ask("GET", "/healthz"))[0] == 200
    assert receiver.posts == []


async def _says(broker: RunningBroker, check: str, word: str) -> bool:
    return word in (await broker.get("/healthz"))["checks"][check]["detail"]


async def test_a_long_timeout_leaves_time_to_send(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, receiver: Receiver
) -> None:
    """The longest timeout that the settings allow still leaves time to send one notice."""
    async with start_broker(notify=receiver.settings | {"timeout": "5m"}) as broker:
        await kill(broker, sandbox, redis, "g1")
        await until(lambda: receiver.notices)
        assert receiver.events == ["reauthorization_required"]
