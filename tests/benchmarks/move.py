"""How long a move to another Redis takes while grants are being refreshed, and what it loses: nothing.

    python -m tests.benchmarks.move [--grants 100000] [--rate 50] [--kill]

Real processes: two Redis with appendfsync always, `token-broker run` and `token-broker move`; the authorization server
is the sandbox in this process, which counts every refresh token that is presented twice. The grants are written past
the broker, each with a live refresh token, and some fall due all the time. At the end the broker runs on the new Redis,
and every stored refresh token is compared with the server's. With --kill the move is ended by SIGKILL while it copies,
and run again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from broker.sandbox import Sandbox
from broker.secret import Sealer, parse_sealing_keys
from tests.benchmarks.many_grants import HOUR, command, send
from tests.benchmarks.processes import PYTHON, QUIET, running_broker
from tests.benchmarks.write_path import settings
from tests.ports import free_port
from tests.redis_server import RedisServer, running_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from broker.sandbox.authority import Authority

PAGE = 1000
_FALL_DUE = """
if redis.call('HGET', KEYS[1], 'store') == ARGV[1] then
  for i = 2, #ARGV do redis.call('ZADD', KEYS[2], 'XX', 1, ARGV[i]) end
end
return 1
"""


@dataclass(slots=True)
class Ground:
    """What a run has: folders, servers, and the sealing key."""

    folder: Path
    port: int
    token_url: str
    authority: Authority
    sealer: Sealer

    def settings(self, server: RedisServer) -> Path:
        """Write the settings for *server*; the sealing key stays."""
        key = (self.folder / "keys").read_text() if (self.folder / "keys").exists() else ""
        path = settings(self.folder, self.port, server.port, 1)
        if key:
            (self.folder / "keys").write_text(key)
        text = path.read_text().replace("http://127.0.0.1:1/token", self.token_url)
        text = text.replace('client_id = "client"', f'client_id = "{self.authority.client_id}"')
        path.write_text(text.replace("secret-of-the-client", self.authority.client_secret))
        return path


def grants(many: int, authority: Authority, sealer: Sealer, now: int) -> Iterator[bytes]:
    """*many* grants, each with a live refresh token, due in the hours to come."""
    for n in range(many):
        name, due, issued = f"g{n}", now + HOUR + (n * 7919) % (10 * HOUR), authority.issue()
        facts: dict[str, Any] = {
            "provider": "bench",
            "generation": now,
            "access_token": sealer.seal(issued.access_token, name, "access_token"),
            "token_type": "Bearer",
            "issued_at": now,
            "expires_at": due + HOUR,
            "refresh_token": sealer.seal(issued.refresh_token or "", name, "refresh_token"),
            "granted_at": now,
            "refresh_at": due,
            "answered_at": now,
        }
        yield command("HSET", f"broker:{{0}}:grant:{name}", *(part for pair in facts.items() for part in pair))
        yield command("ZADD", "broker:{0}:due:bench", due, name)


async def keep_due(server: RedisServer, many: int, rate: int) -> None:
    """Have *rate* grants fall due each second, until cancelled; as a broker would, not once the store is held back."""
    client = redis.Redis(port=server.port)
    store, first = client.hget("broker:{0}:meta", "store") or b"", 0
    while True:
        names = [f"g{(first + n) % many}" for n in range(max(1, rate // 10))]
        first += len(names)
        await asyncio.to_thread(client.eval, _FALL_DUE, 2, "broker:{0}:meta", "broker:{0}:due:bench", store, *names)
        await asyncio.sleep(0.1)


async def move(path: Path, to: RedisServer, *, kill_after: float | None = None) -> dict[str, Any] | None:
    """Run `token-broker move`, or end it by SIGKILL after so many seconds."""
    words = [*PYTHON, "broker", "move", "--config", str(path), "--to", to.url, "--json"]
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    if kill_after is not None:
        await asyncio.sleep(kill_after)
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
    printed, _ = await process.communicate()
    if kill_after is not None and process.returncode == -signal.SIGKILL:
        return None
    assert process.returncode == 0, process.returncode
    return json.loads(printed)  # type: ignore[no-any-return]


def lost(server: RedisServer, many: int, ground: Ground) -> int:
    """Return how many stored refresh tokens are not the authorization server's live ones."""
    client = redis.Redis(port=server.port)
    wrong = 0
    for first in range(0, many, PAGE):
        names = [f"g{n}" for n in range(first, min(many, first + PAGE))]
        pipe = client.pipeline(transaction=False)
        for name in names:
            pipe.hget(f"broker:{{0}}:grant:{name}", "refresh_token")
        for name, sealed in zip(names, pipe.execute(), strict=True):
            token = ground.sealer.open(sealed, name, "refresh_token") if sealed else ""
            wrong += not ground.authority.is_live_refresh(token)
    return wrong


async def measure(many: int, rate: int, *, kill: bool) -> None:
    """Print the figures of one run."""
    folder = Path(tempfile.mkdtemp(prefix="tb-move-"))
    for name in ("old", "new"):
        (folder / name).mkdir()
    try:
        async with Sandbox(access_lifetime=3600) as sandbox:
            with running_redis(folder / "old") as old, running_redis(folder / "new") as new:
                await _measure(folder, sandbox, old, new, many=many, rate=rate, kill=kill)
    finally:
        shutil.rmtree(folder)


async def _measure(
    folder: Path, sandbox: Sandbox, old: RedisServer, new: RedisServer, *, many: int, rate: int, kill: bool
) -> None:
    authority = sandbox.rotating
    ground = Ground(folder, free_port(), f"{authority.issuer}/token", authority, Sealer([b"0" * 32]))
    ground.settings(old)
    ground.sealer = Sealer(parse_sealing_keys((folder / "keys").read_text()))
    ground.sealer.binds = True
    ground.token_url = await _token_endpoint(authority)
    path = ground.settings(old)
    now = int(time.time() * 1000)
    redis.Redis(port=old.port).config_set("appendfsync", "no")
    await asyncio.to_thread(send, old.port, grants(many, authority, ground.sealer, now), 2 * many)
    redis.Redis(port=old.port).config_set("appendfsync", "always")

    async with _broker(path, ground.port):
        load = asyncio.create_task(keep_due(old, many, rate))
        await asyncio.sleep(10)
        under_load = _requests(authority)
        assert under_load, "nothing is refreshed before the move"
        began = time.monotonic()
        if kill and await move(path, new, kill_after=4.0) is None:
            print("killed while it copied, and run again")
        result = await move(path, new)
        took = time.monotonic() - began
        load.cancel()
    assert result is not None
    before = _requests(authority)
    async with _broker(ground.settings(new), ground.port):
        load = asyncio.create_task(keep_due(new, many, rate))
        began_again = time.monotonic()
        while _requests(authority) == before:
            assert time.monotonic() < began_again + 120, "nothing is refreshed on the new Redis"
            await asyncio.sleep(0.05)
        paused = time.monotonic() - began_again
        await asyncio.sleep(10)
        load.cancel()
        await asyncio.sleep(2)
    wrong = await asyncio.to_thread(lost, new, many, ground)
    print(f"{many} grants, {under_load / 10:.0f} refreshes/s before the move")
    print(f"  moved {result['grants']} grants, {result['keys']} keys in {result['seconds']} s ({took:.1f} s in all)")
    print(f"  first refresh on the new Redis {paused:.1f} s after the broker was ready")
    print(f"  {_requests(authority) - before} refreshes there, reuse {authority.reuse}, lost {wrong}")


async def _token_endpoint(authority: Authority) -> str:
    import aiohttp

    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{authority.issuer}/.well-known/openid-configuration") as answer,
    ):
        return str((await answer.json())["token_endpoint"])


def _requests(authority: Authority) -> int:
    """Return how many token requests the authorization server has got."""
    return len(authority.token_requests)


@asynccontextmanager
async def _broker(path: Path, port: int) -> AsyncIterator[None]:
    """Run a broker beside this process's own loop, which serves its token requests."""
    context = running_broker(path, port, **QUIET)
    await asyncio.to_thread(context.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grants", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=50, help="grants that fall due each second")
    parser.add_argument("--kill", action="store_true", help="end the move by SIGKILL while it copies, and run it again")
    asked = parser.parse_args()
    asyncio.run(measure(asked.grants, asked.rate, kill=asked.kill))


if __name__ == "__main__":
    main()
