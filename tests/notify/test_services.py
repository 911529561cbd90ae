"""Notices to Slack, Teams, ntfy, PagerDuty and Alertmanager: stand-ins that accept what the schemas accept."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from broker.notify import policy, scanner, sender
from broker.notify.channels.channel import NotDelivered
from broker.notify.channels.opening import Opener
from broker.settings import NoticeChannel
from tests.notify.cases import every_notice
from tests.notify.steps import check_now
from tests.steps import log_in, make_due, state_of
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from redis.asyncio import Redis

    from broker.notify.channels.channel import Channel
    from broker.sandbox import Sandbox
    from tests.conftest import StartBroker
    from tests.notify.services import Services

KEY = "R0utingKey-of-the-tests"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses: between rounds of the scanner, between checks, and before a failed notice is tried again."""
    monkeypatch.setattr(scanner, "_ROUND_MS", 200)
    monkeypatch.setattr(sender, "_PAUSE", 0.1)
    monkeypatch.setattr(sender, "_FAILING_PAUSE", (0.1, 0.2))
    monkeypatch.setattr(policy, "BACKOFF_FIRST", 200)


def channels(services: Services, tmp_path: Path, **more: Any) -> dict[str, dict[str, Any]]:
    """Return `[notify.channels]` for all services, secrets in files; *more* holds for each."""
    for name, text in (
        ("slack", f"{services.url}/services/T0/B0/slack-secret"),
        ("teams", f"{services.url}/workflows/teams-secret"),
        ("key", KEY),
    ):
        (tmp_path / name).write_text(text + "\n")
    made: dict[str, dict[str, Any]] = {
        "team": {"kind": "slack", "url_file": tmp_path / "slack"},
        "office": {"kind": "teams", "url_file": tmp_path / "teams"},
        "phone": {"kind": "ntfy", "url": f"{services.url}/ntfy/door-topic", "key_file": tmp_path / "key"},
        "oncall": {"kind": "pagerduty", "url": services.url, "key_file": tmp_path / "key"},
        "alerts": {"kind": "alertmanager", "url": f"{services.url}/"},
    }
    return {name: channel | more for name, channel in made.items()}


async def test_every_service(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, services: Services, tmp_path: Path
) -> None:
    """A dead grant reaches every service in its own form, with account, owner, label and address; so does its end."""
    named = channels(services, tmp_path, group="0s")
    async with start_broker(notify={"timeout": "5s", "channels": named}) as broker:
        await log_in(broker, "g1", "acme")
        await broker.ask("PUT", "/v1/grants/g1", json={"owner": "Jane <Doe>", "label": "front door"})
        sandbox.rotating.faults.order("status", status=400, body={"error": "invalid_grant"})
        await make_due(redis, "acme", "g1")
        await until(lambda: all(services.got.values()))
        url = f"{broker.settings.http.public_url}/#search=g1"

        (slack,), (teams,), (ntfy,) = (services.got[kind] for kind in ("slack", "teams", "ntfy"))
        assert slack["text"] == ":rotating_light: Log in again: g1"
        assert slack["blocks"][2]["elements"][0]["url"] == url
        assert "Jane &lt;Doe&gt;" in json.dumps(slack)
        card = teams["attachments"][0]["content"]
        assert card["actions"][0]["url"] == url
        assert {"title": "Label", "value": "front door"} in card["body"][-1]["facts"]
        assert (ntfy["topic"], ntfy["priority"], ntfy["click"]) == ("door-topic", 5, url)
        assert services.keys["ntfy"] == f"Bearer {KEY}"
        assert services.keys["slack"] is None

        (page,), ((alert,),) = services.got["pagerduty"], services.got["alertmanager"]
        assert (page["routing_key"], page["event_action"], page["payload"]["severity"]) == (KEY, "trigger", "critical")
        assert page["payload"]["custom_details"]["account"] == "demo@example.com (demo)"
        assert alert["labels"] == {
            "alertname": "OAuthGrantReauthorizationRequired",
            "severity": "critical",
            "service": "token-broker",
            "instance": url.split("/")[2],
            "grant_id": "g1",
            "provider": "acme",
        }
        assert (alert["annotations"]["owner"], alert["annotations"]["url"]) == ("Jane <Doe>", url)

        await log_in(broker, "g1", "acme")
        for name in named:
            await check_now(redis, "grant/g1", name)
        await until(lambda: all(len(got) == 2 for got in services.got.values()))
        assert services.got["pagerduty"][1] == {
            "routing_key": KEY,
            "event_action": "resolve",
            "dedup_key": page["dedup_key"],
        }
        ((ended,),) = services.got["alertmanager"][1:]
        assert ended["labels"] == alert["labels"]
        assert ended["endsAt"] < alert["endsAt"]
        assert "has recovered" in services.got["slack"][1]["blocks"][1]["text"]["text"]
        for secret in (KEY, "slack-secret", "teams-secret", "door-topic"):
            assert secret not in broker.log.getvalue()


async def test_a_deleted_grant_and_a_worse_one(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, services: Services, tmp_path: Path
) -> None:
    """What gets worse ends its first incident and opens another; a grant that is deleted leaves none open."""
    named = {
        name: channel
        for name, channel in channels(services, tmp_path, group="0s").items()
        if name in {"oncall", "alerts"}
    }
    async with start_broker(notify={"channels": named}) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        await redis.hset("broker:{0}:grant:g1", "failures", "3")
        await until(lambda: services.got["pagerduty"] and services.got["alertmanager"])
        sandbox.rotating.faults.order("status", status=400, body={"error": "invalid_grant"})
        await make_due(redis, "acme", "g1")
        await until(lambda: _parked(broker, "g1"))
        for name in named:
            await check_now(redis, "grant/g1", name)
        await until(lambda: len(services.got["pagerduty"]) == 3 and len(services.got["alertmanager"]) == 2)
        failing, dead, resolved = services.got["pagerduty"]
        assert [failing["payload"]["class"], dead["payload"]["class"]] == [
            "refresh_failing",
            "reauthorization_required",
        ]
        assert (resolved["event_action"], resolved["dedup_key"]) == ("resolve", failing["dedup_key"])
        (first,), (second, replaced) = services.got["alertmanager"]
        assert replaced["labels"] == first["labels"] != second["labels"]
        assert replaced["endsAt"] < second["startsAt"]

        assert (await broker.ask("DELETE", "/v1/grants/g1"))[0] == 200
        for name in named:
            await check_now(redis, "grant/g1", name)
        await until(lambda: len(services.got["pagerduty"]) == 4 and len(services.got["alertmanager"]) == 3)
        assert services.got["pagerduty"][3]["dedup_key"] == dead["dedup_key"]
        assert services.got["alertmanager"][2][0]["labels"] == second["labels"]
        for name in named:
            await until(partial(_nothing_left, redis, name))


async def _parked(broker: Any, grant: str) -> bool:
    return bool((await state_of(broker, grant))["state"] == "parked")


async def _nothing_left(redis: Redis, channel: str) -> bool:
    return not await redis.exists(f"broker:{{0}}:told:{channel}", f"broker:{{0}}:subjects:{channel}")


async def test_every_kind_of_notice(services: Services, tmp_path: Path) -> None:
    """Each notice there can be, of one grant and of five hundred, fits each service's schema; an outage is repeated."""
    async with aiohttp.ClientSession() as session:
        opener = Opener(session, lambda: 1_796_050_000_000, 5, proxy=None, page="https://broker.test")
        opened: list[Channel] = [
            opener.open(name, NoticeChannel(**settings)) for name, settings in channels(services, tmp_path).items()
        ]
        for channel in opened:
            for notice in every_notice():
                await channel.send(notice)
        assert not services.refused
        services.down = True
        for channel in opened:
            with pytest.raises(NotDelivered, match="HTTP 503"):
                await channel.send(every_notice()[0])
        assert services.runner is not None
        await services.runner.cleanup()
        await asyncio.sleep(0)
        for channel in opened:
            with pytest.raises(NotDelivered, match=r"^the receiver cannot be reached \(\w+\)$"):
                await channel.send(every_notice()[0])
