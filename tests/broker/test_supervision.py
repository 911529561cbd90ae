"""The process: a loop that dies ends it, a stop drains it, and imports are spread."""

from __future__ import annotations

import asyncio
import io
import json
import time
from typing import TYPE_CHECKING

import aiohttp
import pytest
import typer

from broker.cli.run import run_loop
from broker.process import logs
from broker.process.tasks import run_until
from broker.read import Follower
from broker.refresh.scheduler import Lane
from broker.sandbox import walk_to_redirect
from broker.settings import Log
from tests.steps import assert_sound, log_in, make_due
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import StartBroker


@pytest.mark.parametrize(("loop", "method"), [(Lane, "step"), (Follower, "follow")], ids=["lane", "follower"])
async def test_a_loop_that_dies_ends_the_process(
    start_broker: StartBroker, monkeypatch: pytest.MonkeyPatch, loop: type, method: str
) -> None:
    """A fault in either loop ends the daemon with an error, instead of leaving half of it to serve on."""
    async with start_broker() as broker:

        async def fault(*_: object) -> None:
            raise RuntimeError("a fault")

        monkeypatch.setattr(loop, method, fault)
        if loop is Follower:
            await broker.ask("GET", "/healthz")
            for task in asyncio.all_tasks():
                if "Follower.follow" in repr(task.get_coro()):
                    task.cancel()
        await until(broker.task.done)
        with pytest.raises(BaseExceptionGroup, match="unhandled errors"):
            broker.task.result()
        broker.task = asyncio.create_task(asyncio.sleep(0))


def test_a_dead_daemon_exits_1() -> None:
    """What ends the daemon unexpectedly is exit code 1, and one event in the log."""

    async def die() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_fault())

    log = io.StringIO()
    logs.set_up(Log(format="json"), log)
    with pytest.raises(typer.Exit) as ended:
        run_loop(die())
    assert ended.value.exit_code == 1
    assert [json.loads(line)["event"] for line in log.getvalue().splitlines()] == ["broker.died"]


async def _fault() -> None:
    raise RuntimeError("a fault")


async def test_a_stop_finishes_what_is_in_flight(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """Told to stop, the broker serves on for drain_delay, not ready, and sees a refresh under way to its commit."""
    async with start_broker(http={"drain_delay": "1s"}) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        await assert_sound(broker, sandbox, ("g1", "acme"))
        sandbox.rotating.options.latency = 1.5
        asked = len(sandbox.rotating.token_requests)
        await make_due(redis, "acme", "g1")
        await until(lambda: len(sandbox.rotating.token_requests) > asked)
        broker.signals.stopping.set()
        began = time.monotonic()
        while time.monotonic() < began + 0.8:
            status, body, _ = await broker.ask("GET", "/readyz")
            assert (status, body["status"]) == (503, "stopping")
            assert (await broker.ask("GET", "/v1/grants/g1/token"))[0] == 200
            await asyncio.sleep(0.05)
        await broker.task
        with pytest.raises(aiohttp.ClientError):
            await broker.ask("GET", "/readyz")
    async with start_broker() as again:
        await assert_sound(again, sandbox, ("g1", "acme"))
        assert len(sandbox.rotating.token_requests) == asked + 1


async def test_imported_grants_fall_due_over_a_window(start_broker: StartBroker, redis: Redis) -> None:
    """Grants imported together do not ask their provider together."""
    async with start_broker(refresh={"import_spread": "1h"}) as broker:
        lines = [
            json.dumps({"grant_id": f"g{n}", "provider": "acme", "refresh_token": f"token-number-{n}"})
            for n in range(300)
        ]
        status, body, _ = await broker.ask("POST", "/v1/import", data="\n".join(lines).encode())
        assert status == 200
        assert body["text"].count('"created"') == 300
        scores = [float(await redis.zscore("broker:{0}:due:acme", f"g{n}") or 0) for n in range(300)]
        assert len(scores) == 300
        assert max(scores) - min(scores) > 2_400_000
        assert max(scores) <= (time.time() + 3600) * 1000
        broker.secrets.add("token-number-")


@pytest.mark.parametrize("what", ["login", "logout"])
async def test_a_stop_finishes_logins_and_logouts(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, what: str
) -> None:
    """A code exchange or a log out under way when the broker is told to stop is seen to its end."""
    async with start_broker() as broker:
        await log_in(broker, "g1", "acme")
        _, started, _ = await broker.ask("POST", "/v1/grants/g2/login", json={"provider": "acme"})
        redirected = await walk_to_redirect(started["authorization_url"], broker.settings.redirect_uri)
        sandbox.rotating.options.latency = 2.5
        if what == "login":
            body = {"redirected_to": redirected, "state": started["state"]}
            work = asyncio.create_task(broker.ask("POST", "/v1/grants/g2/login/complete", json=body))
        else:
            work = asyncio.create_task(broker.ask("DELETE", "/v1/grants/g1"))
        await asyncio.sleep(0.4)
        broker.signals.stopping.set()
        await broker.task
        await asyncio.wait({work})
        assert work.exception() is not None, "the listener was closed meanwhile"
    sandbox.rotating.options.latency = 0
    async with start_broker() as again:
        if what == "login":
            await assert_sound(again, sandbox, ("g1", "acme"), ("g2", "acme"))
        else:
            assert (await again.ask("GET", "/v1/grants/g1"))[0] == 404
            assert await redis.zscore("broker:{0}:leased:acme", "g1") is None
            assert sandbox.rotating.families[0].refresh_token is None


async def test_work_that_loses_its_cancellation_is_left_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that swallows what was to end it does not keep the process from ending."""
    monkeypatch.setattr("broker.process.tasks._CANCEL_AGAIN", 0.05)
    stopping, lost = asyncio.Event(), 0

    async def work() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
                if lost > 2:
                    raise

    leaving = asyncio.create_task(run_until(stopping, work()))
    await asyncio.sleep(0.02)
    stopping.set()
    await asyncio.wait_for(leaving, 5)
    assert lost == 3
