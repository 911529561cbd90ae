"""What a broker says of itself in its worst moments: `status`, the verdict, the page's top line, the alerts.

    python -m tests.benchmarks.worst_moments [--only NAME ...] [--pictures FOLDER]

Real processes: Redis, `token-broker run`, `token-broker status`, Prometheus with the deployed rules, Chromium; the
authorization server is the sandbox in this process. The rules fire without their waiting time, which stands behind each
alert. A state lasts as long as its measurement, so an alert that needs many failures may be missing here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import yaml  # type: ignore[import-untyped]
from playwright.async_api import async_playwright
from redis.asyncio import Redis

from broker.sandbox import Sandbox
from broker.secret import Sealer, new_sealing_key, parse_sealing_keys
from tests.benchmarks.many_grants import HOUR, command, fill, send
from tests.benchmarks.processes import PYTHON, QUIET, running
from tests.chaos.disks import SmallDisk
from tests.observability.queries import RULES, Prometheus, rules
from tests.ports import free_port
from tests.redis_server import RedisServer, start_redis
from tests.steps import fall_due
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from playwright.async_api import Browser

GRANTS = ("door", "gate", "roof")
LIFETIME = 3600
SETTINGS = """
data_dir = "{folder}/data"
[http]
listen = ["127.0.0.1:{port}"]
public_url = "http://127.0.0.1:{port}"
drain_delay = "0s"
[redis]
url = "redis://127.0.0.1:{redis_port}/0"
[sealing]
keys_file = "{folder}/keys"
[refresh]
import_spread = "0s"
request_timeout = "{timeout}s"
lease = "{lease}s"
[providers.{provider}]
kind = "oidc"
issuer = "{authority.issuer}"
client_id = "{authority.client_id}"
client_secret = "{authority.client_secret}"
"""


@dataclass(slots=True)
class World:
    """A broker, its Redis, its provider, and whoever watches them."""

    folder: Path
    sandbox: Sandbox
    redis: RedisServer
    url: str
    key: str
    prometheus: Prometheus
    session: aiohttp.ClientSession
    disk: SmallDisk | None = None

    @property
    def faults(self) -> Any:
        """What the provider does wrong."""
        return self.sandbox.rotating.faults

    async def ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Return the JSON that the broker answers."""
        headers = {"X-Broker-Key": self.key}
        async with self.session.request(method, self.url + path, headers=headers, **options) as answer:
            body: dict[str, Any] = await answer.json()
            return body

    async def import_all(self) -> None:
        """Import three grants, and wait for their tokens."""
        for name in GRANTS:
            issued = self.sandbox.rotating.issue().refresh_token
            await self.ask("PUT", f"/v1/grants/{name}", json={"provider": "acme", "refresh_token": issued})
        await self.until_verdict(lambda verdict: verdict["alive"] == len(GRANTS))

    async def due(self, *grants: str, provider: str = "acme") -> None:
        """Have grants fall due."""
        now = int(time.time() * 1000)
        async with Redis.from_url(self.redis.url) as client:
            await fall_due(client, provider, dict.fromkeys(grants, float(now)))

    async def until_verdict(self, wanted: Callable[[dict[str, Any]], bool], timeout: float = 90) -> dict[str, Any]:
        """Return the verdict once it is as wanted."""

        async def found() -> dict[str, Any] | None:
            with contextlib.suppress(aiohttp.ClientError):
                verdict = await self.ask("GET", "/v1/verdict")
                return verdict if wanted(verdict) else None
            return None

        verdict: dict[str, Any] = await until(found, timeout=timeout)
        return verdict

    async def until_cause(self, kind: str, unserved: int | None = None) -> None:
        """Return once a cause of *kind* comes first, with so many grants without a token."""
        await self.until_verdict(
            lambda v: bool(v["causes"]) and v["causes"][0]["kind"] == kind and unserved in {None, v["unserved"]}
        )

    def restart_redis(self) -> None:
        """Start Redis again, on the data that it had."""
        self.redis = start_redis(self.redis.directory, self.redis.port)


@contextlib.asynccontextmanager
async def world(
    *, timeout: int = 1, lifetime: int = LIFETIME, small_disk: bool = False, provider: str = "acme"
) -> AsyncIterator[World]:
    """Yield a broker of one provider, with real processes around it."""
    folder, port, ended = Path(tempfile.mkdtemp(prefix="tb-worst-")), free_port(), list[subprocess.Popen[Any]]()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        sandbox = await stack.enter_async_context(Sandbox(access_lifetime=lifetime))
        (folder / "redis").mkdir()
        redis = start_redis(folder / "redis")
        (folder / "keys").write_text(new_sealing_key() + "\n")
        (folder / "keys").chmod(0o600)
        config = folder / "broker.toml"
        names = {"folder": folder, "port": port, "redis_port": redis.port, "timeout": timeout, "lease": timeout + 10}
        config.write_text(SETTINGS.format(**names, provider=provider, authority=sandbox.rotating))
        disk = SmallDisk(folder / "data") if small_disk else None
        if disk is not None:
            stack.callback(disk.close)
        through = disk.through if disk else ()
        broker = [*through, *PYTHON, "broker", "run", "--config", str(config)]
        stack.enter_context(running(*broker, env={**os.environ, "PYTHONPATH": "."}, **QUIET))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        url = f"http://127.0.0.1:{port}"
        await until(lambda: _is_ready(session, url), timeout=60)
        read_key = [*through, "cat", str(folder / "data" / "admin.key")]
        read = await asyncio.to_thread(subprocess.run, read_key, capture_output=True, text=True, check=True)
        key = read.stdout.strip()
        prometheus = Prometheus(folder, url, ended, rules_file=_rules_at_once(folder))
        stack.callback(ended[0].kill)
        await stack.enter_async_context(prometheus)
        await until(lambda: prometheus.query("token_broker_store_up"), timeout=60, every=0.3)
        made = World(folder, sandbox, redis, url, key, prometheus, session, disk)
        try:
            yield made
        finally:
            sandbox.rotating.faults.clear()
            if disk is not None:
                disk.make_room()
            made.redis.kill()


async def _is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        async with session.get(url + "/readyz") as answer:
            return answer.status == 200
    return False


def _rules_at_once(folder: Path) -> Path:
    """Return a file with the deployed rules, without their waiting times."""
    file = folder / "rules.yml"
    found = yaml.safe_load(RULES.read_text("utf-8"))
    for group in found["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    file.write_text(yaml.safe_dump(found))
    return file


@contextlib.asynccontextmanager
async def all_expired_and_fenced() -> AsyncIterator[World]:
    """Redis was restarted: nobody refreshes for a while, in which every token ends."""
    async with world(timeout=50, lifetime=8) as made:
        await made.import_all()
        made.redis.kill()
        made.restart_redis()
        await made.until_cause("fenced", unserved=3)
        yield made


@contextlib.asynccontextmanager
async def two_of_three_dead() -> AsyncIterator[World]:
    """The provider no longer accepts the refresh tokens of two grants."""
    async with world(lifetime=8) as made:
        await made.import_all()
        made.sandbox.rotating.options.access_lifetime = LIFETIME
        made.faults.order("status", 2, status=400, body={"error": "invalid_grant"})
        await made.due("door", "gate")
        await made.until_verdict(lambda v: (v["causes"] or [{}])[0].get("grants") == 2)
        await made.due("roof")
        await made.until_cause("login_needed", unserved=2)
        yield made


@contextlib.asynccontextmanager
async def provider_hanging() -> AsyncIterator[World]:
    """The provider accepts connections and answers none."""
    async with world() as made:
        await made.import_all()
        made.faults.order("hang", None)
        await made.due(*GRANTS)
        await made.until_cause("provider_failing")
        yield made


@contextlib.asynccontextmanager
async def redis_away_for_a_minute() -> AsyncIterator[World]:
    """Redis was killed a minute ago; afterwards it comes back."""
    async with world() as made:
        await made.import_all()
        made.redis.kill()
        await asyncio.sleep(60)
        yield made
        made.restart_redis()
        back = time.monotonic()
        await made.until_verdict(
            lambda v: v["alive"] == 3 and (v["causes"] or [{"kind": "none"}])[0]["kind"] != "redis"
        )
        print(f"  after its return: the verdict is read from Redis again within {time.monotonic() - back:.1f} s")


@contextlib.asynccontextmanager
async def wrong_store() -> AsyncIterator[World]:
    """Redis holds the store of another broker."""
    async with world() as made:
        await made.import_all()
        await made.redis.ask("HSET", "broker:{0}:meta", "store", "feedfacefeedface")
        await made.until_cause("wrong_store")
        yield made


@contextlib.asynccontextmanager
async def disk_full() -> AsyncIterator[World]:
    """There is no room in data_dir."""
    async with world(small_disk=True) as made:
        assert made.disk is not None
        await made.import_all()
        made.disk.fill()
        for _ in range(100):  # the journal's last block has room for some responses
            await made.due(*GRANTS)
            verdict = await made.ask("GET", "/v1/verdict")
            if verdict["causes"]:
                break
            await asyncio.sleep(0.5)
        await made.until_cause("journal")
        yield made


@contextlib.asynccontextmanager
async def suspended_provider() -> AsyncIterator[World]:
    """The provider refuses the client registration."""
    async with world() as made:
        await made.import_all()
        body = {"error": "invalid_client", "error_description": "unknown client"}
        made.faults.order("status", None, status=401, body=body)
        await made.due(*GRANTS)
        await made.until_cause("provider_suspended")
        yield made


@contextlib.asynccontextmanager
async def two_dead_of_ten_thousand() -> AsyncIterator[World]:
    """Among ten thousand grants two need a login, and have no token any more."""
    async with world(provider="bench") as made:
        sealer, now = Sealer(parse_sealing_keys((made.folder / "keys").read_text())), int(time.time() * 1000)
        sealer.binds = True
        fill(made.redis.port, 10_000, sealer, now)
        for name in ("g7", "g9"):
            ended = command("HSET", f"broker:{{0}}:grant:{name}", "expires_at", now - HOUR)
            send(made.redis.port, [ended + command("ZADD", "broker:{0}:ends:bench", now - HOUR, name)], 2)
        await made.due("g7", "g9", provider="bench")
        await made.until_cause("login_needed", unserved=2)
        yield made


STATES: Sequence[Callable[[], contextlib.AbstractAsyncContextManager[World]]] = (
    all_expired_and_fenced,
    two_of_three_dead,
    provider_hanging,
    redis_away_for_a_minute,
    wrong_store,
    disk_full,
    suspended_provider,
    two_dead_of_ten_thousand,
)


def status(made: World) -> tuple[int, str]:
    """Return exit code and first line of `token-broker status`."""
    line = [str(Path(sys.executable).with_name("token-broker")), "status", "--url", made.url]
    env = {**os.environ, "TOKEN_BROKER_KEY": made.key}
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout, done.stderr
    return done.returncode, done.stdout.splitlines()[0].rstrip()


def shortened(verdict: dict[str, Any]) -> str:
    """Return what matters of a verdict as JSON."""
    causes = [
        {name: cause[name] for name in ("kind", "grants", "unserved", "examples") if cause[name] not in (None, [])}
        | {"for": verdict["at"] - cause["since"] if cause["since"] else None}
        for cause in verdict["causes"]
    ]
    chosen = {name: verdict[name] for name in ("status", "grants", "alive", "unserved")}
    return json.dumps({**chosen, "causes": causes, "memory": verdict["memory"]["tokens"]})


async def alerts(made: World) -> str:
    """Return the alerts that fire, and how long each waits where it is deployed."""
    waits = {rule["alert"]: rule.get("for", "at once") for rule in rules()}
    await asyncio.sleep(5)
    return ", ".join(f"{name} ({waits[name]})" for name in sorted(await made.prometheus.firing())) or "none"


async def top_line(browser: Browser, made: World, picture: Path | None) -> str:
    """Return the top line of the page and its level, and keep a picture of it."""
    page = await browser.new_page(viewport={"width": 1280, "height": 800})
    await page.goto(made.url + "/")
    await page.get_by_label("Key", exact=True).fill(made.key)
    await page.get_by_role("button", name="Sign in").click()
    await page.locator("#verdict:not([data-level=wait])").wait_for()
    with contextlib.suppress(Exception):  # there is none while Redis is away
        await page.locator("li.grant").first.wait_for(timeout=3000)
    if picture is not None:
        await page.screenshot(path=picture)
    level = await page.locator("#verdict").get_attribute("data-level")
    words = await page.locator("#words").inner_text()
    await page.close()
    return f"{level}: {words}"


async def show(make: Callable[[], contextlib.AbstractAsyncContextManager[World]], browser: Browser, to: Path) -> None:
    """Print what is said in one state."""
    name = make.__name__
    async with make() as made:
        print(f"{name.replace('_', ' ')}")
        code, first = await asyncio.to_thread(status, made)
        print(f"  status, exit {code}: {first}")
        print(f"  page, {await top_line(browser, made, to / f'{name}.png')}")
        print(f"  verdict: {shortened(await made.ask('GET', '/v1/verdict'))}")
        print(f"  alerts: {await alerts(made)}", flush=True)


async def measure(names: Sequence[str], to: Path) -> None:
    """Print what is said in each state."""
    to.mkdir(parents=True, exist_ok=True)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for make in STATES:
            if not names or make.__name__ in names:
                await show(make, browser, to)
        await browser.close()


def main() -> None:
    """Print what is said in each state."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], choices=[make.__name__ for make in STATES])
    parser.add_argument("--pictures", type=Path, default=Path("screenshots"))
    chosen = parser.parse_args()
    asyncio.run(measure(chosen.only, chosen.pictures))


if __name__ == "__main__":
    main()
