"""Owner and label: free text on a grant, set in four ways, kept, and bounded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from broker.sandbox import walk_login
from tests.broker.logins import start
from tests.steps import log_in, make_due, next_generation, state_of

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker


async def test_owner_and_label(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """Set at login, by the link's query, by an import and by PUT alone; kept over refresh and login; null removes."""
    started = await start(broker, "g1", "acme", owner="Jane", label="first")
    await walk_login(started["login_url"] + "?label=by%20the%20link")
    assert await owner_and_label(broker) == ("Jane", "by the link")
    before = await broker.token("g1")
    await make_due(redis, "acme", "g1")
    await next_generation(broker, "g1", before["generation"])
    await log_in(broker, "g1", "acme")
    assert await owner_and_label(broker) == ("Jane", "by the link")
    status, body, _ = await broker.ask("PUT", "/v1/grants/g1", json={"owner": "Jöhn"})
    assert (status, body["status"], body["provider"]) == (200, "annotated", "acme")
    assert await owner_and_label(broker) == ("Jöhn", "by the link")
    for nothing in (None, ""):
        await broker.ask("PUT", "/v1/grants/g1", json={"label": nothing})
        assert await owner_and_label(broker) == ("Jöhn", None)
    token = sandbox.rotating.issue().refresh_token
    body = {"provider": "acme", "refresh_token": token, "label": "imported"}
    assert (await broker.ask("PUT", "/v1/grants/g1", json=body))[0] == 200
    assert await owner_and_label(broker) == ("Jöhn", "imported")
    line = {"grant_id": "g2", "provider": "acme", "refresh_token": sandbox.rotating.issue().refresh_token, "owner": "x"}
    status, outcome, _ = await broker.ask("POST", "/v1/import", data=json.dumps(line))
    assert (status, outcome["status"]) == (200, "created")
    assert await owner_and_label(broker, "g2") == ("x", None)
    audited = [line["did"] for line in broker.events("access") if line["did"] == "grant.annotated"]
    assert len(audited) == 3


async def owner_and_label(broker: RunningBroker, grant: str = "g1") -> tuple[str | None, str | None]:
    """Return owner and label of a grant."""
    described = await state_of(broker, grant)
    return described["owner"], described["label"]


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "x" * 256, 7, ["x"], {"a": 1}, "\ud800"])
async def test_text_that_is_refused(broker: RunningBroker, text: object) -> None:
    """No control characters, no end: they are shown on terminals and pages."""
    await log_in(broker, "g1", "acme")
    for path, method, body in (
        ("/v1/grants/g1", "PUT", {"owner": text}),
        ("/v1/grants/g1", "PUT", {"label": text}),
        ("/v1/grants/g1/login", "POST", {"provider": "acme", "owner": text}),
    ):
        status, answer, _ = await broker.ask(method, path, json=body)
        assert (status, answer["error"]) == (400, "invalid_request")
    assert await owner_and_label(broker) == (None, None)


async def test_text_of_a_link_that_is_refused(broker: RunningBroker) -> None:
    """The query of a login link is checked likewise, before the browser goes on."""
    started = await start(broker, "g1", "acme")
    async with aiohttp.ClientSession() as session, session.get(f"{started['login_url']}?owner=a%0Ab") as answer:
        assert answer.status == 400
        assert "control characters" in await answer.text()


async def test_a_grant_that_is_not_there_is_not_made_by_a_label(broker: RunningBroker) -> None:
    """PUT with a label alone makes no grant."""
    status, body, _ = await broker.ask("PUT", "/v1/grants/nobody", json={"label": "x"})
    assert (status, body["error"]) == (404, "not_found")
    assert (await broker.ask("PUT", "/v1/grants/nobody", json={}))[0] == 400
