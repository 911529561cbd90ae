"""Refusals in whole brokers, scaled down: dead grants starve no healthy one, a blip parks nobody, junk stops nobody.

`python -m tests.benchmarks.refusals` measures the same at full length.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.broker.steps import imported
from tests.conftest import StartBroker, provider_settings
from tests.scripted_server import CLIENT_SECRET, AuthorizationServer, Exchange, authorization_server, says, success
from tests.steps import make_due, state_of
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker

NAMES = [f"g{number:02}" for number in range(20)]
DEAD = NAMES[::3] + NAMES[1:2]


@pytest.fixture(autouse=True)
def _scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of a tenth: a blip of 40 s is one of 4 s here."""
    monkeypatch.setattr("broker.store.schedule.SUSPENDED_PAUSE_MS", (500, 6_000))
    monkeypatch.setattr("broker.store.schedule.AILING_PAUSE_MS", (100, 3_000))
    monkeypatch.setattr("broker.refresh.policy.REFUSAL_FIRST", 500)
    monkeypatch.setattr("broker.refresh.policy.REFUSED_FOR", 6_000)
    monkeypatch.setattr("broker.refresh.policy.BACKOFF_EXPIRED", 3_000)


_A_MOMENT = 15
"""Reads in a row, a tenth of a second apart and more. Starved grants miss a fourth of all reads: 60 of these."""


async def missing(broker: RunningBroker, names: list[str], seconds: float) -> dict[str, int]:
    """Read tokens for so long; return how often each was not there at once, if that was more than for a moment.

    A machine that others load makes a provider that answers late: every token is short here, and comes late once.
    """
    found: dict[str, int] = {}
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for name in names:
            status, _, _ = await broker.ask("GET", f"/v1/grants/{name}/token", headers={"Prefer": "wait=0"})
            if status != 200:
                found[name] = found.get(name, 0) + 1
        await asyncio.sleep(0.1)
    return {name: count for name, count in found.items() if count > _A_MOMENT}


async def parked(broker: RunningBroker, names: list[str]) -> dict[str, str]:
    """Return which grants are parked, and why."""
    states = {name: await state_of(broker, name) for name in names}
    return {name: str(state["reason"]) for name, state in states.items() if state["state"] == "parked"}


@pytest.mark.timeout(90)
async def test_eight_dead_of_twenty_starve_nobody(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """Healthy grants always have a token; the dead are asked about once each, parked, and named."""
    sandbox.rotating.options.access_lifetime = 12
    async with start_broker() as broker:
        await imported(broker, sandbox, *NAMES)
        families = {}
        for name in DEAD:
            access = (await broker.token(name))["access_token"]
            family = sandbox.rotating.family_of(access)
            assert family is not None
            families[family.id] = name
            sandbox.rotating.revoke_family(access)
        before = len(sandbox.rotating.token_requests)
        healthy = [name for name in NAMES if name not in DEAD]
        assert await missing(broker, healthy, 26) == {}
        assert await parked(broker, NAMES) == dict.fromkeys(DEAD, "reauthorization_required")
        asked = [r for r in sandbox.rotating.token_requests[before:] if r.family in families]
        assert len(DEAD) <= len(asked) <= len(DEAD) + 4


KINDS: dict[str, dict[str, Any]] = {
    "firewall": {"status": 403, "body": b"<html>no</html>", "content_type": "text/html"},
    "request": {"status": 400, "body": {"error": "invalid_request"}},
    "unauthorized": {"status": 403, "body": {"error": "unauthorized_client"}},
    "bare 401": {"status": 401, "body": b""},
    "client": {"status": 401, "body": {"error": "invalid_client"}},
    "timeout": {"status": 408, "body": {"error": "timeout"}},
    "internal": {"status": 200, "body": {"ok": False, "error": "internal_error"}},
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("many", [2, 20])
async def test_a_blip_parks_nobody(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, kind: str, many: int
) -> None:
    """Every grant falls due in a blip that refuses all of them; soon after it each is refreshed, and nobody acted."""
    providers = provider_settings(sandbox)
    providers["acme"]["dead_statuses"] = [401]
    names = NAMES[:many]
    async with start_broker(providers=providers) as broker:
        await imported(broker, sandbox, *names)
        first = {name: (await broker.token(name))["generation"] for name in names}
        sandbox.rotating.faults.order("status", None, **KINDS[kind])
        await make_due(redis, "acme", *names)
        for _ in range(8):
            await asyncio.sleep(0.5)
            assert await parked(broker, names) == {}
        sandbox.rotating.faults.clear()

        async def all_refreshed() -> bool:
            return all([(await state_of(broker, name))["generation"] != first[name] for name in names])

        # A grant waits for the pause that its own refusals brought it: a quarter of its token's life at most.
        await until(all_refreshed, 20)
        assert await parked(broker, names) == {}


async def test_41_junk_tokens_stop_no_other_tenant(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """All of them are parked and named, the provider is never suspended, and a grant that falls due is refreshed."""
    async with start_broker(refresh={"import_spread": "0s"}) as broker:
        await imported(broker, sandbox, "good")
        first = (await broker.token("good"))["generation"]
        junk = [f"junk{number}" for number in range(41)]
        for name in junk:
            body = {"provider": "acme", "refresh_token": f"no-token-of-this-server-{name}"}
            assert (await broker.ask("PUT", f"/v1/grants/{name}", json=body))[0] == 201
        await make_due(redis, "acme", "good")

        async def refreshed() -> bool:
            return bool((await state_of(broker, "good"))["generation"] != first)

        await until(refreshed, 5)

        async def all_named() -> bool:
            return len(await parked(broker, junk)) == 41

        await until(all_named, 20)
        assert not broker.events("provider.suspended")


def refusing(server: AuthorizationServer, dead: list[str]) -> None:
    """Have a server refuse some grants, in words that may mean the client as well."""
    usual = success(expires_in=12)

    async def step(exchange: Exchange) -> bool | None:
        if exchange.request.grant in dead and server.redeemed[exchange.request.grant]:
            return await says({"error": "unauthorized_client"}, 403)(exchange)
        return await usual(exchange)

    server.usual = step


@pytest.mark.timeout(90)
async def test_replicas_decide_by_what_all_of_them_saw(start_broker: StartBroker) -> None:
    """Two brokers share their evidence: grants that are refused alone are parked, healthy ones miss nothing."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(authorization_server())
        refusing(server, DEAD)
        provider = {
            "kind": "oauth2",
            "client_id": "client",
            "client_secret": CLIENT_SECRET,
            "token_endpoint": f"{server.url}/token",
        }
        tables = {"providers": {"as": provider}, "refresh": {"concurrency": 2}}
        brokers = [await stack.enter_async_context(start_broker(**tables)) for _ in range(2)]
        for name in NAMES:
            await brokers[0].import_(name, "as", server.issue(name))
        healthy = [name for name in NAMES if name not in DEAD]
        assert await missing(brokers[1], healthy, 26) == {}
        assert await parked(brokers[1], NAMES) == dict.fromkeys(DEAD, "unauthorized_client")
        listed = (await brokers[0].get("/v1/providers"))["providers"]
        assert [row["suspended"] for row in listed if row["provider"] == "as"] == [None]
        history = (await brokers[0].get(f"/v1/grants/{DEAD[0]}/attempts"))["attempts"]
        assert history[-1]["decided"] == "parked_alone"
