"""A grant read without pause while its short tokens come and go, and what a subscriber hears meanwhile.

    python -m tests.benchmarks.without_pause [--seconds 25] [--lifetime 6]

Real processes: a Redis with appendfsync always and `token-broker run`; the sandbox's CameraManager dialect. Prints a
transcript of the grant's whole life, then counts: generations, least life left at a read, answers other than 200.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from redis.asyncio import Redis

from broker.sandbox import Sandbox, walk_login
from broker.secret import new_sealing_key
from tests.benchmarks.processes import PYTHON, START_LIMIT
from tests.conftest import provider_settings
from tests.ports import free_port
from tests.redis_server import running_redis
from tests.waiting import until

GRANT = "acme-cameras"


def settings(folder: Path, port: int, redis_url: str, sandbox: Sandbox) -> Path:
    """Return the broker's settings."""
    (folder / "keys").write_text(new_sealing_key() + "\n")
    lines = [
        f'data_dir = "{folder}/data"',
        "[http]",
        f'listen = ["127.0.0.1:{port}"]',
        f'public_url = "http://127.0.0.1:{port}"',
        'drain_delay = "1s"',
        "[redis]",
        f'url = "{redis_url}"',
        "[sealing]",
        f'keys_file = "{folder}/keys"',
        "[log]",
        'level = "warning"',
        "[providers.cameramanager]",
    ]
    lines += [f"{name} = {json.dumps(value)}" for name, value in provider_settings(sandbox)["cameramanager"].items()]
    path = folder / "broker.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


async def hear(redis: Redis, heard: list[dict[str, Any]]) -> None:
    """Collect what the grant's channel says."""
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(f"broker:tokens:{GRANT}")
        async for message in pubsub.listen():
            if message["type"] == "message":
                heard.append(json.loads(message["data"]))


async def read(url: str, key: str, seconds: float, seen: Counter[int], others: Counter[int]) -> float:
    """Read without pause; the least life left (seconds) at any read."""
    least = float("inf")
    async with aiohttp.ClientSession(headers={"X-Broker-Key": key}) as session:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            async with session.get(f"{url}/v1/grants/{GRANT}/token") as answer:
                if answer.status != 200:
                    others[answer.status] += 1
                    continue
                token = await answer.json()
            seen[token["generation"]] += 1
            # Whole seconds on the wire are rounded down; the generation is when it was issued, in ms.
            least = min(least, token["expires_at"] - time.time())
    return least


async def is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    """Return whether the broker serves callers by now."""
    with contextlib.suppress(aiohttp.ClientError):
        async with session.get(url + "/readyz") as answer:
            return answer.status == 200
    return False


async def live(seconds: float, lifetime: float) -> None:
    """Start everything, log in, read, log out."""
    with tempfile.TemporaryDirectory(prefix="tb-") as made:
        folder, port = Path(made), free_port()
        with running_redis(folder) as server:
            async with Sandbox(access_lifetime=lifetime) as sandbox:
                await follow_one_grant(folder, port, server.url, sandbox, seconds)


async def follow_one_grant(folder: Path, port: int, redis_url: str, sandbox: Sandbox, seconds: float) -> None:
    """Follow one grant from its login to its end, and print what was seen of it."""
    url, began = f"http://127.0.0.1:{port}", time.monotonic()
    path = settings(folder, port, redis_url, sandbox)
    broker = await asyncio.create_subprocess_exec(*PYTHON, "broker", "run", "--config", str(path))
    heard: list[dict[str, Any]] = []
    redis: Redis = Redis.from_url(redis_url)
    async with aiohttp.ClientSession() as session:
        await until(partial(is_ready, session, url), START_LIMIT, 0.01)
        print(f"start to ready: {time.monotonic() - began:.2f} s")
        key = (folder / "data" / "admin.key").read_text().strip()
        admin = {"X-Broker-Key": key}
        listening = asyncio.create_task(hear(redis, heard))
        body = {"provider": "cameramanager"}
        async with session.post(f"{url}/v1/grants/{GRANT}/login", json=body, headers=admin) as answer:
            started = await answer.json()
        print("login_url opens ->", started["authorization_url"].replace(sandbox.url, "").split("&state")[0])
        page = await walk_login(started["login_url"])
        print("callback page:", "Logged in" if "Logged in" in page else page)
        seen: Counter[int] = Counter()
        others: Counter[int] = Counter()
        least = await read(url, key, seconds, seen, others)
        print(f"{seconds:g} s of {sandbox.cameramanager.options.access_lifetime:g}-second tokens read without pause:")
        print(f"  reads {sum(seen.values())}, generations seen {len(seen)}, least life left {least:.2f} s")
        print(f"  answers other than 200: {sum(others.values())} {dict(others) or ''}")
        async with session.delete(f"{url}/v1/grants/{GRANT}", headers=admin) as answer:
            print("log out:", answer.status, (await answer.json())["detail"])
        async with session.get(f"{url}/v1/grants/{GRANT}/token", headers=admin) as answer:
            print("read after log out:", answer.status)
        await asyncio.sleep(0.1)
        listening.cancel()
        events = Counter(message["event"] for message in heard)
        order = [message["generation"] for message in heard]
        print(f"a subscriber heard: {dict(events)}, generations in order: {order == sorted(order)}")
        asked = Counter(r.grant_type for r in sandbox.cameramanager.token_requests)
        print(f"token requests at the server: {dict(asked)}, reuse {sandbox.cameramanager.reuse}")
    broker.terminate()
    print("SIGTERM -> exit", await broker.wait())
    await redis.aclose()


def main() -> None:
    """Print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=25)
    parser.add_argument("--lifetime", type=float, default=6)
    asked = parser.parse_args()
    asyncio.run(live(asked.seconds, asked.lifetime))


if __name__ == "__main__":
    main()
