"""Admins of some grants only: what they see, what they may not take up; and what is written down of everybody."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from broker.process import logs
from broker.sandbox import Sandbox
from broker.secret import key_digest
from broker.settings import Log
from broker.store import Schedule
from tests.conftest import RunningBroker, StartBroker
from tests.steps import log_in, make_due
from tests.waiting import until

FEW = {"X-Broker-Key": "few-key-0123456789-0123456789-0123456789"}
SOME = {"X-Broker-Key": "some-key-0123456789-0123456789-0123456789"}
ALL = {"X-Broker-Key": "all-key-0123456789-0123456789-0123456789"}
CALLERS = {
    "few": {"key_sha256": key_digest(FEW["X-Broker-Key"]), "admin": ["mine-*"]},
    "some": {"key_sha256": key_digest(SOME["X-Broker-Key"]), "admin": ["mine-*", "other-*", "g*"]},
    "all": {"key_sha256": key_digest(ALL["X-Broker-Key"]), "admin": ["x", "*"]},
}


@pytest.fixture
async def broker(start_broker: StartBroker, tmp_path: Path) -> AsyncIterator[RunningBroker]:
    """Yield a broker with an admin of few grants, one of most, and one of all; imports fall due much later."""
    data = tmp_path / "rights"
    data.mkdir()
    (data / "admin.key").write_text("admin-key-0123456789-0123456789-0123456789\n")
    async with start_broker(data_dir=data, callers=CALLERS, refresh={"import_spread": "10h"}) as running:
        running.secrets |= {key["X-Broker-Key"] for key in (FEW, SOME, ALL)}
        yield running


async def imported(broker: RunningBroker, *grants: str) -> None:
    """Import grants that nothing is asked for."""
    lines = [json.dumps({"grant_id": g, "provider": "acme", "refresh_token": f"token-of-{g}"}) for g in grants]
    status, body, _ = await broker.ask("POST", "/v1/import", data="\n".join(lines).encode())
    assert (status, str(body).count("created")) == (200, len(grants))


async def listed(broker: RunningBroker, limit: int, headers: dict[str, str]) -> list[list[str]]:
    """Return the ids that each page of a listing shows."""
    pages: list[list[str]] = []
    cursor = ""
    while True:
        page = await broker.get(f"/v1/grants?limit={limit}{cursor}", headers=headers)
        pages.append([grant["grant_id"] for grant in page["grants"]])
        if page["next"] is None:
            return pages
        raw = base64.urlsafe_b64decode(page["next"] + "==")
        assert not any(word in page_name for word in (b"other", b"mine") for page_name in (raw, page["next"].encode()))
        cursor = f"&cursor={page['next']}"


async def test_the_past_of_a_grant_is_its_admins(broker: RunningBroker) -> None:
    """Attempts, and that a grant was forgotten, are told to the admins of the id, and not to those of another."""
    await imported(broker, "mine-1", "other-1")
    past = await broker.get("/v1/grants/mine-1/attempts", headers=FEW)
    assert (past["attempts"], past["under_way"], past["forgotten_at"]) == ([], None, None)
    assert past["next_at"] > 0
    await broker.ask("DELETE", "/v1/grants/other-1")
    await broker.ask("DELETE", "/v1/grants/mine-1")
    for grant in ("other-1", "other-2"):
        assert (await broker.ask("GET", f"/v1/grants/{grant}/attempts", headers=FEW))[0] == 403
    assert (await broker.get("/v1/grants/mine-1/attempts", headers=FEW))["forgotten_at"] > 0
    assert (await broker.get("/v1/grants/other-1/attempts", headers=ALL))["forgotten_at"] > 0
    status, body, _ = await broker.ask("GET", "/v1/grants/other-2/attempts", headers=ALL)
    assert (status, body["error"]) == (404, "not_found")


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
async def test_a_limited_admin_lists_its_own(broker: RunningBroker, limit: int) -> None:
    """Every grant of its patterns once, in full pages, and never an id of another, not even in the cursor."""
    mine, others = [f"mine-{n}" for n in range(7)], [f"other-{n:02}" for n in range(60)]
    await imported(broker, *mine, *others)
    pages = await listed(broker, limit, FEW)
    assert sorted(itertools.chain(*pages)) == mine
    assert all(len(page) == limit for page in pages[:-1])
    for query in ("search=other", "search=OTHER-0&order=urgent", "state=due&search=r-1"):
        assert (await broker.get(f"/v1/grants?{query}", headers=FEW))["grants"] == []
    for headers in (ALL, {}):
        pages = await listed(broker, limit, headers)
        assert sorted(itertools.chain(*pages)) == mine + others
        assert all(len(page) == limit for page in pages[:-1])


@pytest.mark.parametrize("limit", [1, 100])
async def test_one_listing_passes_over_a_bounded_number(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Among very many grants of others one request passes over some, and gives a cursor to go on from there."""
    await imported(broker, *(f"other-{n:02}" for n in range(50)))
    assert await listed(broker, limit, FEW) == [[]]
    monkeypatch.setattr("broker.store.listing._MOST_PASSED", 20)
    assert await listed(broker, limit, FEW) == [[], [], []]
    await imported(broker, "mine-1")
    assert sorted(itertools.chain(*await listed(broker, limit, FEW))) == ["mine-1"]
    assert len(list(itertools.chain(*await listed(broker, limit, ALL)))) == 51


async def test_cursors_are_their_callers_own(broker: RunningBroker) -> None:
    """A cursor of another caller, an altered one, or one from elsewhere is refused."""
    await imported(broker, *(f"mine-{n}" for n in range(5)))
    cursor = (await broker.get("/v1/grants?limit=2", headers=SOME))["next"]
    flipped = cursor[:-4] + ("AAAA" if cursor[-4:] != "AAAA" else "BBBB")
    assert (await broker.ask("GET", f"/v1/grants?cursor={cursor}", headers=SOME))[0] == 200
    for headers, wrong in ((FEW, cursor), (ALL, cursor), (SOME, flipped), (SOME, cursor[:-1]), (SOME, cursor + "!")):
        status, body, _ = await broker.ask("GET", f"/v1/grants?cursor={wrong}", headers=headers)
        assert (status, body["error"]) == (400, "invalid_request"), wrong
        assert "cursor" in body["error_description"]


async def test_a_provider_is_taken_up_by_an_admin_of_all(broker: RunningBroker) -> None:
    """Whoever administers some grants, however many, may not end a provider's suspension for everybody."""
    for headers, wanted in ((FEW, 403), (SOME, 403), (ALL, 202), ({}, 202)):
        for provider in ("acme", "een"):
            status, body, _ = await broker.ask("POST", f"/v1/providers/{provider}/retry", headers=headers)
            assert status == wanted, headers
            assert wanted == 202 or "admin of every grant" in body["error_description"]
    assert (await broker.ask("POST", "/v1/providers/nope/retry", headers=FEW))[0] == 403
    assert (await broker.ask("POST", "/v1/providers/nope/retry", headers=ALL))[0] == 400


async def test_a_client_that_leaves_while_a_provider_is_taken_up(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the breaker had seen refused is taken up to the last grant, though nobody waits for the answer any more."""
    async with start_broker() as broker:
        for number in range(5):
            await broker.import_(f"g{number}", "acme", sandbox.rotating.issue().refresh_token or "")
        sandbox.rotating.faults.order("status", None, status=400, body={"error": "invalid_grant"})
        for number in range(5):
            await make_due(redis, "acme", f"g{number}")

        async def counts() -> dict[str, int]:
            rows = (await broker.get("/v1/providers"))["providers"]
            return next({**row["grants"], "suspended": row["suspended"]} for row in rows if row["provider"] == "acme")

        async def suspended() -> bool:
            seen = await counts()
            return bool(seen["suspended"] and not seen["leased"])

        await until(suspended)
        assert (await counts())["parked"] == 3
        sandbox.rotating.faults.clear()
        retry = Schedule.retry

        async def slowly(self: Schedule, *arguments: Any) -> Any:
            await asyncio.sleep(0.2)
            return await retry(self, *arguments)

        monkeypatch.setattr(Schedule, "retry", slowly)
        with contextlib.suppress(TimeoutError):
            await broker.ask("POST", "/v1/providers/acme/retry", timeout=aiohttp.ClientTimeout(total=0.1))
        assert (await counts())["parked"], "it has not left too late"

        async def all_taken_up() -> bool:
            seen = await counts()
            return not seen["parked"] and not seen["leased"] and not seen["suspended"]

        await until(all_taken_up)


async def test_access_is_written_down(broker: RunningBroker, sandbox: Sandbox) -> None:
    """Who did what to which grant and generation stands in the log: reads for debugging, everything else always."""
    await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
    token = await broker.token("g1")
    etag = f'"{token["generation"]}"'
    await broker.ask("GET", "/v1/grants/g1/token", headers={"If-None-Match": etag})
    await broker.ask("POST", "/v1/grants/g1/refresh", headers={"If-Match": etag})
    await broker.ask("POST", "/v1/grants/g1/retry", headers=SOME)
    await broker.ask("POST", "/v1/providers/acme/retry", headers=ALL)
    await imported(broker, "mine-1")
    await log_in(broker, "g2", "een")
    await broker.ask("DELETE", "/v1/grants/g2", headers=SOME)
    await broker.ask("DELETE", "/v1/grants/mine-1")
    for forbidden in ("/v1/grants/g1/retry", "/v1/grants/g1/login"):
        await broker.ask("POST", forbidden, headers=FEW)
    events = broker.events("access")
    acts = [
        (event.get("caller"), event["did"], event.get("grant_id")) for event in events if event["did"] != "token.read"
    ]
    assert acts == [
        ("admin", "grant.imported", "g1"),
        ("admin", "refresh.reported", "g1"),
        ("some", "grant.retried", "g1"),
        ("all", "provider.retried", None),
        ("admin", "grant.imported", "mine-1"),
        ("admin", "login.started", "g2"),
        (None, "login.completed", "g2"),
        ("some", "grant.deleted", "g2"),
        ("admin", "grant.deleted", "mine-1"),
    ]
    assert {event["level"] for event in events if event["did"] != "token.read"} == {"info"}
    reads = [event for event in events if event["did"] == "token.read"]
    assert {(event["caller"], event["level"], event["grant_id"]) for event in reads} == {("admin", "debug", "g1")}
    assert reads[0]["generation"] == token["generation"]
    assert len(reads) == 2, "a 304 hands out nothing, nor does a refusal"
    logs.set_up(Log(format="json"), broker.log)
    await broker.token("g1")
    assert len(broker.events("access")) == len(events)


async def test_cached_tokens_are_counted(broker: RunningBroker, sandbox: Sandbox) -> None:
    """The gauge of tokens in memory follows what was read, and what was logged out."""

    async def counted() -> float:
        text = (await broker.get("/metrics"))["text"]
        return next(float(row.split()[1]) for row in text.splitlines() if row.startswith("token_broker_cached_tokens "))

    assert await counted() == 0
    for number in range(3):
        await broker.import_(f"g{number}", "acme", sandbox.rotating.issue().refresh_token or "")
        assert await counted() == number + 1
    await broker.ask("DELETE", "/v1/grants/g0")
    assert await counted() == 2
