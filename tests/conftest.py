"""Real servers for every test: a valkey-server, the sandbox, and brokers that run in this very process.

After every test that ran a broker the guards look: no secret in its logs or metrics, no key in Redis without a
reason, no task left behind, nothing that blocked the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
import uvloop
from blockbuster import blockbuster_ctx
from redis.asyncio import Redis

from broker.process import logs
from broker.process.signals import Signals
from broker.sandbox import Authority, Sandbox
from broker.service import serve
from broker.settings import Log, Settings
from tests.ports import free_port
from tests.redis_server import RedisServer, running_redis
from tests.server_marker import mark_items, processes_only_if_marked
from tests.waiting import until


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a server."""
    mark_items(items)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test on the loop that the broker runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let no test without that mark start a process."""
    with processes_only_if_marked(item):
        return (yield)


@pytest.fixture(autouse=True)
def _settings_of_tests_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of whoever runs the tests reaches a broker."""
    for name in list(os.environ):
        if name.startswith("TOKEN_BROKER_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _log_of_this_test_alone() -> Iterator[None]:
    """Where a test sends the log is not where the next one finds it, which may be a file closed since."""
    yield
    structlog.reset_defaults()
    logging.basicConfig(force=True)


@pytest.fixture(autouse=True)
def _no_blocked_loop() -> Iterator[None]:
    """Fail a test in which a call blocks the event loop inside `broker`; what happens once, at start, may."""
    at_start = {
        "data_dir.py": {"prepare", "write_private", "sealing_keys", "known_store", "redis_passwords"},
        "callers.py": {"load", "_read_key"},
        "client_secret.py": {"require_secrets"},
        "proxy.py": {"require_proxies"},
        "embedded.py": {"embedded_server", "_start", "_try_lock", "find_server", "_stop"},
        "listeners.py": {"_start"},
        "audit_file.py": {"__init__"},
        "webhook.py": {"webhook_secret"},
        "opening.py": {"_url", "_own_key"},  # the channels for notices
        "channels.py": {"zone"},
        "command.py": {"require_program", "send"},
        "conftest.py": {"start", "ready"},
        "fake.py": {"up", "down"},
        "place.py": {"_read"},
        "catalogue.py": {"_names", "_load", "_checked"},
    }
    with blockbuster_ctx("broker") as blockbuster:
        for function in blockbuster.functions.values():
            for file, names in at_start.items():
                function.can_block_in(file, names)
        yield


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """One server for the whole run."""
    with tempfile.TemporaryDirectory(prefix="tb-redis-") as directory, running_redis(Path(directory)) as server:
        yield server


@pytest.fixture
async def redis(shared_redis: RedisServer) -> AsyncIterator[Redis]:
    """Yield a client of the run's server, emptied."""
    client = Redis.from_url(shared_redis.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """Yield a server of the test's own, to be stopped and restarted."""
    with tempfile.TemporaryDirectory(prefix="tb-redis-") as directory, running_redis(Path(directory)) as server:
        yield server


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Yield the sandbox authorization server, tokens of an hour unless a test says otherwise."""
    async with Sandbox(access_lifetime=3600) as running:
        yield running


def provider_settings(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    """Return settings of the sandbox's three authorities, by the names that tests use."""
    camera, v3, rotating = sandbox.cameramanager, sandbox.v3, sandbox.rotating
    return {
        "cameramanager": {
            "kind": "cameramanager",
            **_registration(camera),
            "authorization_endpoint": f"{sandbox.url}/oauth/authorize",
            "token_endpoint": f"{sandbox.url}/oauth/token",
            "logout_endpoint": f"{sandbox.url}/rest/v2.0/users/self/tokens/current",
        },
        "een": {
            "kind": "een-v3",
            **_registration(v3),
            "authorization_endpoint": f"{sandbox.url}/v3/oauth2/authorize",
            "token_endpoint": f"{sandbox.url}/v3/oauth2/token",
            "revocation_endpoint": f"{sandbox.url}/v3/oauth2/revoke",
        },
        "acme": {"kind": "oidc", **_registration(rotating), "issuer": rotating.issuer},
    }


def _registration(authority: Authority) -> dict[str, str]:
    return {"client_id": authority.client_id, "client_secret": authority.client_secret}


@dataclass(slots=True)
class RunningBroker:
    """A broker in this process, and an admin who asks it."""

    settings: Settings
    signals: Signals
    log: io.StringIO
    session: aiohttp.ClientSession
    admin_key: str
    task: asyncio.Task[None]
    url: str
    secrets: set[str] = field(default_factory=set)

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any], Any]:
        """Status, JSON (or {"text": …}) and headers of one request as admin."""
        headers = {"X-Broker-Key": self.admin_key, **options.pop("headers", {})}
        async with self.session.request(
            method, self.url + path, headers=headers, allow_redirects=False, **options
        ) as answer:
            text = await answer.text()
            try:
                body = json.loads(text)
            except ValueError:
                body = {"text": text}
            return answer.status, body, answer.headers

    async def get(self, path: str, **options: Any) -> dict[str, Any]:
        """JSON of a GET that must succeed."""
        status, body, _ = await self.ask("GET", path, **options)
        assert status == 200, body
        return body

    async def import_(self, grant: str, provider: str, refresh_token: str) -> None:
        """Import a refresh token and wait for its first access token."""
        request = {"provider": provider, "refresh_token": refresh_token}
        ends = time.monotonic() + 15
        while True:
            status, body, _ = await self.ask("PUT", f"/v1/grants/{grant}", json=request)
            # The disk under Redis may keep it waiting for longer than we do; it is safe to say again.
            if body.get("error") != "store_unavailable" or time.monotonic() > ends:
                break
        assert status in {200, 201}, body
        await self.token(grant)

    async def token(self, grant: str) -> dict[str, Any]:
        """Return the current token answer."""
        return await self.get(f"/v1/grants/{grant}/token")

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Log events so far, all or those of one name."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if name is None or line["event"] == name]

    async def stop(self) -> None:
        """Stop it in order."""
        self.signals.stopping.set()
        await self.task


StartBroker = Callable[..., contextlib.AbstractAsyncContextManager[RunningBroker]]


@pytest.fixture
async def start_broker(
    shared_redis: RedisServer, redis: Redis, sandbox: Sandbox, tmp_path: Path
) -> AsyncIterator[StartBroker]:
    """Brokers with settings of the test's own: each argument is a table of the settings."""
    number = 0
    keys = tmp_path / "sealing.keys"
    from broker.secret import new_sealing_key

    keys.write_text(new_sealing_key() + "\n")

    @contextlib.asynccontextmanager
    async def start(*, wait: bool = True, **tables: Any) -> AsyncIterator[RunningBroker]:
        nonlocal number
        number += 1
        port = free_port()
        wanted: dict[str, Any] = {
            "data_dir": tmp_path / f"data{number}",
            "redis": {"url": shared_redis.url},
            "sealing": {"keys_file": keys},
            "providers": provider_settings(sandbox),
        } | tables
        wanted["http"] = {
            "listen": [f"127.0.0.1:{port}"],
            "public_url": f"http://127.0.0.1:{port}",
            "drain_delay": "0s",
        } | tables.get("http", {})
        settings = Settings(**wanted)
        log = io.StringIO()
        logs.set_up(Log(format="json", level="debug"), log)
        signals = Signals(of_process=False)
        task = asyncio.create_task(serve(settings, signals, reload=lambda: settings))
        admin = settings.data_dir / "admin.key"
        async with aiohttp.ClientSession() as session:
            running = RunningBroker(settings, signals, log, session, "", task, f"http://{wanted['http']['listen'][0]}")

            async def ready() -> bool:
                if task.done():
                    raise AssertionError("the broker ended") from task.exception()
                try:
                    return (await running.ask("GET", "/readyz"))[0] == 200
                except aiohttp.ClientError:
                    return False

            try:
                if wait:
                    await until(ready)
                running.admin_key = admin.read_text().strip() if admin.exists() else ""
                yield running
                if not task.done():
                    await _guard(running, sandbox)
            finally:
                print(log.getvalue())  # pytest shows it where a test failed
                await running.stop()

    start.__name__ = "start_broker"
    yield start
    await _guard_keys(redis)


@pytest.fixture
async def broker(start_broker: StartBroker) -> AsyncIterator[RunningBroker]:
    """One broker with the sandbox's three providers."""
    async with start_broker() as running:
        yield running


async def _guard(broker: RunningBroker, sandbox: Sandbox) -> None:
    """No secret that anybody issued stands in the logs or the metrics."""
    async with broker.session.get(broker.url + "/metrics") as answer:
        metrics = await answer.text()
    async with broker.session.get(broker.url + "/healthz") as answer:
        health = await answer.text()
    secrets = sandbox.secrets() | broker.secrets | {broker.admin_key}
    for where, text in (("logs", broker.log.getvalue()), ("metrics", metrics), ("healthz", health)):
        leaked = [secret[:6] + "…" for secret in secrets if len(secret) > 5 and secret in text]
        assert not leaked, f"secrets in {where}: {leaked}"


async def _guard_keys(redis: Redis) -> None:
    """Every key in Redis is of a kind we know; what may pile up expires."""
    lasting = {
        "forgotten",
        "grant",
        "attempts",
        "due",
        "leased",
        "parked",
        "provider",
        "meta",
        "held",
        "lost",
        "damaged",
        "epoch",
        "history",
        "day",
        "subjects",
        "told",
        "ends",
        "failing",
    }
    for raw in await redis.execute_command("KEYS", "*"):  # type: ignore[no-untyped-call]
        kind = raw.decode().split(":")[2]
        assert kind in lasting or (kind in {"flow", "clock"} and await redis.ttl(raw) > 0), (
            f"a key without a reason: {raw!r}"
        )


@pytest.fixture
def ended() -> Iterator[list[subprocess.Popen[Any]]]:
    """Yield a list for processes of a test: whatever still runs at its end is ended, by pid."""
    started: list[subprocess.Popen[Any]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr, process.stdin):
            if stream is not None:
                stream.close()
