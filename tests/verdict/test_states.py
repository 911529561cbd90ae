"""What a real broker says of itself in its worst moments: verdict, first line and exit code of `status`, `/healthz`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.conftest import provider_settings
from tests.proxy import RedisProxy
from tests.serving import serving
from tests.steps import make_due
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker
    from tests.redis_server import RedisServer

COMMAND = str(Path(sys.executable).with_name("token-broker"))
QUICK = {"request_timeout": "1s", "lease": "8s", "import_spread": "0s"}
GRANTS = ("door", "gate", "roof")
META = "broker:{0}:meta"


async def import_all(broker: RunningBroker, sandbox: Sandbox) -> None:
    """Import three grants of acme, and wait for their tokens."""
    for name in GRANTS:
        await broker.import_(name, "acme", sandbox.rotating.issue().refresh_token or "")


async def verdict_with(broker: RunningBroker, kind: str, timeout: float = 15) -> dict[str, Any]:
    """Return the verdict once a cause of *kind* comes first in it."""

    async def found() -> dict[str, Any] | None:
        verdict = await broker.get("/v1/verdict")
        causes = verdict["causes"]
        return verdict if causes and causes[0]["kind"] == kind else None

    verdict: dict[str, Any] = await until(found, timeout=timeout)
    assert [cause["kind"] for cause in verdict["causes"]] == [kind], "one cause is one entry"
    return verdict


async def status(broker: RunningBroker, *arguments: str, url: str | None = None) -> tuple[int, list[str]]:
    """Return exit code and lines of a command, `status` unless *arguments* name another."""
    env = {"PATH": os.environ["PATH"], "TOKEN_BROKER_KEY": broker.admin_key}
    line = [COMMAND, *(arguments or ("status",)), "--url", url or broker.url]
    done = await asyncio.to_thread(subprocess.run, line, env=env, capture_output=True, text=True, timeout=30)
    assert done.stderr == "", done.stderr
    return done.returncode, done.stdout.splitlines()


async def public(broker: RunningBroker) -> dict[str, str]:
    """Return the verdict in `/healthz`, which needs no key and names no grant."""

    async def recent() -> dict[str, str]:
        async with broker.session.get(broker.url + "/healthz") as answer:
            body = await answer.json()
        assert answer.status == 200, "the loops run"
        verdict: dict[str, str] = body["verdict"]
        return verdict

    current = (await broker.get("/v1/verdict"))["status"]

    async def caught_up() -> dict[str, str] | None:
        verdict = await recent()
        return verdict if verdict["status"] == current else None

    verdict: dict[str, str] = await until(caught_up)
    assert not any(name in verdict["summary"] for name in GRANTS)
    return verdict


async def test_all_is_well(broker: RunningBroker, sandbox: Sandbox) -> None:
    """Without grants, and with three that live: ok, exit 0, and no cause."""
    assert (await broker.get("/v1/verdict"))["summary"] == "There are no grants yet."
    await import_all(broker, sandbox)
    verdict = await broker.get("/v1/verdict")
    assert (verdict["status"], verdict["summary"]) == ("ok", "All 3 grants have a valid token.")
    assert (verdict["grants"], verdict["alive"], verdict["unserved"], verdict["causes"]) == (3, 3, 0, [])
    assert verdict["memory"]["tokens"] == 3
    code, lines = await status(broker)
    assert (code, lines[0].rstrip()) == (0, verdict["summary"])
    assert any(line.startswith("3 alive, the next ends in 60 min.") for line in lines)
    assert await public(broker) == {"status": "ok", "summary": "All 3 grants have a valid token."}


async def test_all_expired_and_fenced(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """After a failover nobody refreshes for some seconds, in which every token ends: it heals by itself, exit 75."""
    sandbox.rotating.options.access_lifetime = 2
    async with start_broker(refresh=QUICK | {"request_timeout": "20s", "lease": "30s"}) as broker:
        await import_all(broker, sandbox)
        await redis.hset("broker:{0}:epoch", "run_id", "0" * 40)
        verdict = await verdict_with(broker, "fenced")
        await until(lambda: _unserved(broker, 3))
        verdict = await broker.get("/v1/verdict")
        assert verdict["status"] == "recovering"
        assert re.fullmatch(
            r"None of 3 grants has a valid token: refreshing pauses until [-\d: ]+ \(in \d+ s\), because Redis was "
            r"restarted, failed over or restored\.",
            verdict["summary"],
        )
        (cause,) = verdict["causes"]
        assert (cause["grants"], cause["unserved"], cause["action"]) == (3, 3, None)
        assert cause["since"] < cause["next_at"]
        code, lines = await status(broker)
        assert (code, lines[0].split(":")[0]) == (75, "None of 3 grants has a valid token")
        assert (await public(broker))["status"] == "recovering"


async def _unserved(broker: RunningBroker, n: int) -> bool:
    return bool((await broker.get("/v1/verdict"))["unserved"] == n)


async def _tries_late(broker: RunningBroker) -> bool:
    cause = (await broker.get("/v1/verdict"))["causes"][0]
    return bool(cause["kind"] == "provider_failing" and (cause["next_at"] or 0) > time.time() + 600)


async def test_two_of_three_are_dead(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """They are named, a person must log in, exit 77; it is so before their last tokens have ended, too."""
    sandbox.rotating.options.access_lifetime = 4
    async with start_broker(refresh=QUICK) as broker:
        await import_all(broker, sandbox)
        sandbox.rotating.options.access_lifetime = 3600
        sandbox.rotating.faults.order("status", 2, status=400, body={"error": "invalid_grant"})
        await make_due(redis, "acme", "door", "gate")
        await until(lambda: len(broker.events("grant.parked")) == 2)
        await make_due(redis, "acme", "roof")
        await until(lambda: _unserved(broker, 2))
        verdict = await verdict_with(broker, "login_needed")
        assert verdict["status"] == "login_needed"
        assert verdict["summary"] == "2 of 3 grants have no valid token: log in again to door and gate."
        (cause,) = verdict["causes"]
        assert cause["sentence"] == "2 grants need a login: provider acme no longer accepts their refresh tokens."
        assert (cause["provider"], cause["grants"], cause["unserved"]) == ("acme", 2, 2)
        assert sorted(cause["examples"]) == ["door", "gate"]
        code, lines = await status(broker)
        assert (code, lines[0].rstrip()) == (77, verdict["summary"])
        assert any(line.startswith("1 alive, the next ends in 60 min.") for line in lines)
        assert re.search(r"^door +acme +needs a login +expired \d+ s ago ", "\n".join(lines), re.MULTILINE)
        assert (await public(broker))["summary"] == "2 of 3 grants have no valid token: 2 grants need a login."


async def test_a_provider_that_hangs(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """It is named, with its failures in a row and the time of the next try; it heals by itself."""
    async with start_broker(refresh=QUICK | {"request_timeout": "300ms"}) as broker:
        await import_all(broker, sandbox)
        sandbox.rotating.faults.order("hang", None)
        await make_due(redis, "acme", *GRANTS)
        before = int(time.time())
        verdict = await verdict_with(broker, "provider_failing")
        (cause,) = verdict["causes"]
        assert verdict["status"] == "recovering"
        assert re.match(
            r"All 3 grants have a valid token; provider acme is failing: [345] token requests in a row brought nothing "
            r"\(.+\); the broker tries again (at|within)",
            verdict["summary"],
        )
        assert before - 3 <= cause["since"] <= before + 15
        assert cause["unserved"] == 0
        assert (await status(broker))[0] == 75
        # Their refresh tokens may be spent, so each is presented again just before its token ends, and not before.
        await until(lambda: _tries_late(broker))
        sandbox.rotating.faults.clear()


async def test_a_suspended_provider(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A registration that is refused needs a person, who gets the command; exit 1."""
    async with start_broker(refresh=QUICK) as broker:
        await import_all(broker, sandbox)
        body = {"error": "invalid_client", "error_description": "unknown client"}
        sandbox.rotating.faults.order("status", None, status=401, body=body)
        await make_due(redis, "acme", *GRANTS)
        verdict = await verdict_with(broker, "provider_suspended")
        assert verdict["status"] == "failing"
        assert verdict["summary"].startswith(
            "All 3 grants have a valid token; provider acme refuses this broker's client registration (invalid_client"
        )
        assert "`token-broker retry --provider acme`" in verdict["causes"][0]["action"]
        code, lines = await status(broker)
        assert (code, lines[0].rstrip()) == (1, verdict["summary"])
        assert (await public(broker))["status"] == "failing"


async def test_a_provider_that_was_removed(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """Grants that wait for it are counted, in the verdict and without a key."""
    async with start_broker(refresh=QUICK) as broker:
        await import_all(broker, sandbox)
    others = {name: table for name, table in provider_settings(sandbox).items() if name != "acme"}
    async with start_broker(refresh=QUICK, providers=others) as broker:
        verdict = await verdict_with(broker, "provider_missing")
        assert (verdict["status"], verdict["causes"][0]["grants"]) == ("failing", 3)
        assert (await status(broker))[0] == 1
        assert (
            "provider acme is not in the settings, so 3 grants are not refreshed" in (await public(broker))["summary"]
        )


async def test_a_lost_index(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """Where Redis lost the index of the grants, as where it evicts keys, they are not said to be gone."""
    await import_all(broker, sandbox)

    async def is_counting() -> bool:
        await redis.delete("broker:{0}:ends:acme")  # the broker makes it anew
        verdict = await broker.get("/v1/verdict")
        return verdict["status"] == "recovering" and "being counted" in verdict["summary"]

    await until(is_counting)
    await until(lambda: _unserved(broker, 0))
    assert (await broker.get("/v1/verdict"))["grants"] == 3


async def test_redis_away(start_broker: StartBroker, sandbox: Sandbox, shared_redis: RedisServer) -> None:
    """The verdict comes from memory within a second, with one cause, since when it was noticed, and the cure."""
    async with RedisProxy(shared_redis.port) as proxy, start_broker(redis={"url": proxy.url}) as broker:
        await import_all(broker, sandbox)
        proxy.down()
        gone = int(time.time())
        verdict = await verdict_with(broker, "redis")
        began = time.monotonic()
        verdict = await broker.get("/v1/verdict")
        assert time.monotonic() - began < 2
        assert (verdict["status"], verdict["grants"], verdict["unserved"]) == ("recovering", None, None)
        assert re.fullmatch(
            r"Only the 3 tokens in memory are served"
            r"(, until|: the first ends at [-\d: ]+ \(in (60|59) min\), the last at) "
            r"[-\d: ]+ \(in (60|59) min\): Redis cannot be reached; start Redis, "
            r"repair the network to it, or correct redis\.url\.",
            verdict["summary"],
        )
        (cause,) = verdict["causes"]
        assert gone - 1 <= cause["since"] <= gone + 5
        assert cause["action"] == "Start Redis, repair the network to it, or correct redis.url"
        code, lines = await status(broker)
        assert (code, lines[0].startswith("Only the 3 tokens in memory are served")) == (75, True)
        code, lines = await status(broker, "explain", "door")
        assert code == 75
        assert "The token in memory is served until" in lines[0]
        assert lines[-1] == "For a person to do: start Redis, repair the network to it, or correct redis.url."
        code, lines = await status(broker, "explain", "nobody")
        assert "This broker holds no token of it in memory" in lines[0]
        proxy.up = True
        await until(lambda: _unserved(broker, 0), timeout=20)


async def test_another_store_and_an_empty_one(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A server with another store, or with none, is not a Redis that is away: a person must act, exit 1."""
    async with start_broker() as broker:
        await import_all(broker, sandbox)
        own = await redis.hget(META, "store")
        await redis.hset(META, "store", "feedfacefeedface")
        verdict = await verdict_with(broker, "wrong_store")
        assert verdict["status"] == "failing"
        assert (
            "Redis holds another store (feedfacefeedface) than this broker's; correct redis.url" in verdict["summary"]
        )
        assert (await status(broker))[0] == 1
        kept: dict[Any, Any] = await redis.hgetall(META)
        await redis.delete(META)

        async def is_empty() -> bool:
            return "holds no token-broker data" in (await broker.get("/v1/verdict"))["summary"]

        await until(is_empty)
        assert "Restore its data" in (await broker.get("/v1/verdict"))["causes"][0]["action"]
        assert (await broker.get("/v1/grants/door/explanation"))["exit_code"] == 1
        await redis.hset(META, mapping={**kept, b"store": own or b""})
        await until(lambda: _unserved(broker, 0), timeout=20)


async def test_a_full_disk(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that cannot be written needs a person: what is wrong, since when, and what helps; exit 1."""
    write = os.write
    async with start_broker(refresh=QUICK) as broker:
        await import_all(broker, sandbox)

        def refuse(descriptor: int, data: bytes) -> int:
            if "/journal/" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
                raise OSError(28, "No space left on device")
            return write(descriptor, data)

        with monkeypatch.context() as full:
            full.setattr(os, "write", refuse)
            await make_due(redis, "acme", "door")
            verdict = await verdict_with(broker, "journal")
            assert (verdict["status"], verdict["unserved"]) == ("failing", 0)
            assert verdict["summary"] == (
                "All 3 grants have a valid token; the journal in data_dir cannot be written (No space left on device): "
                "make room in data_dir, or correct what keeps the disk from writing."
            )
            assert verdict["causes"][0]["since"] is not None
            assert (await status(broker))[0] == 1
            assert (await public(broker))["status"] == "failing"
        await until(lambda: _is_ok(broker))


async def _is_ok(broker: RunningBroker) -> bool:
    return bool((await broker.get("/v1/verdict"))["status"] == "ok")


async def test_an_admin_of_some_grants(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """Learns no id of another grant; a caller without the right learns which right, and what gives it."""
    from broker.secret import key_digest, new_caller_key

    every, some, none = new_caller_key(), new_caller_key(), new_caller_key()
    callers = {
        "every": {"key_sha256": key_digest(every), "admin": ["*"], "read": ["*"]},
        "some": {"key_sha256": key_digest(some), "admin": ["roof*"]},
        "reader": {"key_sha256": key_digest(none), "read": ["*"]},
    }
    async with start_broker(refresh=QUICK, callers=callers) as broker:
        broker.admin_key = every
        await import_all(broker, sandbox)
        sandbox.rotating.faults.order("status", 1, status=400, body={"error": "invalid_grant"})
        await make_due(redis, "acme", "door")
        await verdict_with(broker, "login_needed")
        verdict = await broker.get("/v1/verdict", headers={"X-Broker-Key": some})
        assert "door" not in str(verdict)
        assert verdict["causes"][0]["action"] == "Log in again"
        code, body, _ = await broker.ask("GET", "/v1/verdict", headers={"X-Broker-Key": none})
        assert code == 403
        assert "'reader' has no view right on any grant" in body["error_description"]
        assert "`token-broker caller new NAME --view 'PATTERN'`" in body["error_description"]


@contextlib.asynccontextmanager
async def older(broker: RunningBroker) -> AsyncIterator[str]:
    """Yield the address of *broker* as a version without verdict and explanation answers: without what came later."""

    async def answer(request: web.Request) -> web.Response:
        if "explanation" in request.path or request.path == "/v1/verdict":
            return web.json_response({"error": "not_found", "error_description": "there is no such route"}, status=404)
        status, body, _ = await broker.ask(request.method, request.path)
        for grant in [*body.get("grants", []), body]:
            grant.pop("state_words", None)
        body.pop("verdict", None)
        return web.json_response(body, status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with serving(app) as url:
        yield url


async def test_a_broker_of_an_older_version(broker: RunningBroker, sandbox: Sandbox) -> None:
    """`status` says that there is no verdict, guesses none, and shows what the broker says; `explain` goes on."""
    await import_all(broker, sandbox)
    async with older(broker) as url:
        code, lines = await status(broker, url=url)
        assert code == 1
        assert lines[0].startswith("This broker is of an older version, which gives no verdict (GET /v1/verdict):")
        text = "\n".join(lines)
        assert re.search(r"^acme +oidc +3 +\? +0 +ok", text, re.MULTILINE)
        assert re.search(r"^door +acme +due +60 min +in ", text, re.MULTILINE)
        assert "alive" not in text
        code, lines = await status(broker, "explain", "door", url=url)
        assert (code, lines[0].split(".")[0]) == (0, "Grant door is alive")
