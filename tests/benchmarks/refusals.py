"""What refusals cost: dead grants beside healthy ones, and a blip that refuses everybody.

    python -m tests.benchmarks.refusals starvation [--kind dead] [--life 120] [--seconds 280] [--grants 20] [--dead 8]
    python -m tests.benchmarks.refusals blip [--kind firewall] [--life 120] [--blip 40] [--grants 20]

Real processes: an authorization server, a Redis, and `token-broker run` (`--replicas` of them). `starvation`: once all
grants have a token, the server refuses some of them for ever. `blip`: while tokens fall due, it refuses all of them for
a while. A grant is without a token in a second in which a caller asks for it, and gets none at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from broker.secret import new_sealing_key
from tests.benchmarks.processes import running_broker
from tests.ports import free_port
from tests.redis_server import running_redis
from tests.scripted_server import (
    CLIENT_SECRET,
    AuthorizationServer,
    Exchange,
    Step,
    authorization_server,
    says,
    success,
)

PAGE = "<html><h1>403 Forbidden</h1></html>"
KINDS: dict[str, Step] = {
    "dead": says({"error": "invalid_grant"}, 400),
    "unauthorized": says({"error": "unauthorized_client"}, 403),
    "bare-401": says(b"", 401, kind=None),
    "client": says({"error": "invalid_client"}, 401),
    "request": says({"error": "invalid_request"}, 400),
    "firewall": says(PAGE, 403, kind="text/html"),
    "busy": says({"ok": False, "error": "internal_error"}, 200),
    "timeout": says({"error": "timeout"}, 408),
    "server": says({"error": "server_error"}, 500),
}
STEP = 0.25
"""Seconds between two looks at all tokens."""


def settings(folder: Path, name: str, port: int, redis_port: int, server: str) -> Path:
    """Return the settings of one broker."""
    path = folder / f"{name}.toml"
    path.write_text(f"""
data_dir = "{folder}/{name}"
[http]
listen = ["127.0.0.1:{port}"]
public_url = "http://127.0.0.1:{port}"
drain_delay = "0s"
[redis]
url = "redis://127.0.0.1:{redis_port}/0"
[sealing]
keys_file = "{folder}/keys"
[log]
level = "warning"
[refresh]
import_spread = "1ms"
[providers.as]
kind = "oauth2"
client_id = "client"
client_secret = "{CLIENT_SECRET}"
token_endpoint = "{server}/token"
dead_statuses = [401]
""")
    return path


@dataclass
class Run:
    """One run: whom it asks, and what came of it."""

    session: aiohttp.ClientSession
    url: str
    key: str
    server: AuthorizationServer
    names: list[str]
    without: dict[str, float] = field(default_factory=dict)

    async def get(self, path: str) -> tuple[int, dict[str, object]]:
        """Ask the broker; do not wait for a token."""
        headers = {"X-Broker-Key": self.key, "Prefer": "wait=0"}
        async with self.session.get(self.url + path, headers=headers) as answer:
            return answer.status, await answer.json()

    async def watch(self, seconds: float) -> None:
        """Read every token again and again, and note how long each is missing."""
        ends, last = time.monotonic() + seconds, time.monotonic()
        while last < ends:
            await asyncio.sleep(STEP)
            answers = await asyncio.gather(*(self.get(f"/v1/grants/{name}/token") for name in self.names))
            now = time.monotonic()
            for name, (status, _) in zip(self.names, answers, strict=True):
                if status != 200:
                    self.without[name] = self.without.get(name, 0.0) + now - last
            last = now

    async def named(self) -> dict[str, str]:
        """Return every parked grant with its reason, and the provider if it is suspended."""
        found = {}
        for name in self.names:
            _, grant = await self.get(f"/v1/grants/{name}")
            if grant["state"] == "parked":
                found[name] = str(grant["reason"])
        _, listed = await self.get("/v1/providers")
        providers: list[dict[str, object]] = listed["providers"]  # type: ignore[assignment]
        if providers[0]["suspended"]:
            found["provider"] = f"suspended: {providers[0]['suspended']}"
        return found

    async def import_all(self) -> None:
        """Import every grant, and wait until each has a token."""
        lines = [
            json.dumps({"grant_id": name, "provider": "as", "refresh_token": self.server.issue(name)})
            for name in self.names
        ]
        headers = {"X-Broker-Key": self.key}
        async with self.session.post(f"{self.url}/v1/import", data="\n".join(lines), headers=headers) as answer:
            assert (await answer.text()).count('"created"') == len(lines)
        while not all([(await self.get(f"/v1/grants/{name}/token"))[0] == 200 for name in self.names]):
            await asyncio.sleep(0.1)


async def starvation(run: Run, asked: argparse.Namespace) -> dict[str, object]:
    """Refuse some grants for ever; return what that cost the others."""
    dead, usual = set(run.names[:: max(1, asked.grants // asked.dead)][: asked.dead]), run.server.usual

    async def step(exchange: Exchange) -> bool | None:
        return await (KINDS[asked.kind] if exchange.request.grant in dead else usual)(exchange)

    run.server.usual = step
    before = len(run.server.requests)
    await run.watch(asked.seconds)
    requests = run.server.requests[before:]
    named = await run.named()
    return {
        "seconds without a token, healthy grants": round(sum(t for n, t in run.without.items() if n not in dead), 1),
        "longest, one healthy grant": round(max([t for n, t in run.without.items() if n not in dead], default=0), 1),
        "requests to the dead": sum(request.grant in dead for request in requests),
        "requests to the healthy": sum(request.grant not in dead for request in requests),
        "dead and named": sum(name in named for name in dead),
        "healthy and parked": sum(name in named for name in run.names if name not in dead),
        "reasons": sorted(set(named.values())),
    }


async def blip(run: Run, asked: argparse.Namespace) -> dict[str, object]:
    """Refuse everybody for a while, from just before the first falls due; return what is left of that."""
    await run.watch(asked.life * 0.7)
    usual, before = run.server.usual, len(run.server.requests)
    run.server.usual = KINDS[asked.kind]
    await run.watch(asked.blip)
    run.server.usual, meanwhile = usual, len(run.server.requests) - before
    parked = await run.named()
    await run.watch(65)
    return {
        "parked at the end of the blip": len(parked.keys() - {"provider"}),
        "parked 65 s later": len((await run.named()).keys() - {"provider"}),
        "requests in the blip": meanwhile,
        "provider in the blip": parked.get("provider", "not suspended"),
        "grants without a token 65 s later": sum(
            [(await run.get(f"/v1/grants/{name}/token"))[0] != 200 for name in run.names]
        ),
    }


async def measure(asked: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Run server, store and brokers, and one of the two runs."""
    (folder / "keys").write_text(new_sealing_key() + "\n")
    ports = [free_port() for _ in range(asked.replicas)]
    usual = success(expires_in=asked.life)
    async with authorization_server(usual=usual) as server, aiohttp.ClientSession() as session:
        with ExitStack() as stack:
            (folder / "redis").mkdir()
            store = stack.enter_context(running_redis(folder / "redis"))
            for number, port in enumerate(ports):
                path = settings(folder, f"b{number}", port, store.port, server.url)
                await asyncio.to_thread(stack.enter_context, running_broker(path, port))
            key = (folder / "b0" / "admin.key").read_text().strip()
            names = [f"g{number:02}" for number in range(asked.grants)]
            run = Run(session, f"http://127.0.0.1:{ports[0]}", key, server, names)
            await run.import_all()
            return await (starvation if asked.run == "starvation" else blip)(run, asked)


def main() -> None:
    """Print what one run came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=["starvation", "blip"])
    parser.add_argument("--kind", choices=list(KINDS), default="dead")
    for name, value in (("life", 120), ("seconds", 280), ("blip", 40), ("grants", 20), ("dead", 8), ("replicas", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tb-bench-") as folder:
        for what, figure in asyncio.run(measure(asked, Path(folder))).items():
            print(f"{asked.run} {asked.kind}: {what}: {figure}")


if __name__ == "__main__":
    main()
