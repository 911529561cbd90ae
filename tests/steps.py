"""Steps that many tests take."""

from __future__ import annotations

import asyncio
import contextlib
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from broker.sandbox import walk_login
from broker.secret import Sealer, parse_sealing_keys
from broker.store import open_store
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from redis.asyncio import Redis

    from broker.sandbox import Authority, Sandbox
    from tests.conftest import RunningBroker

PROVIDERS = ("cameramanager", "een", "acme")


def authority_of(sandbox: Sandbox, provider: str) -> Authority:
    """Return the sandbox's authority behind a provider of the tests' settings."""
    return {"cameramanager": sandbox.cameramanager, "een": sandbox.v3, "acme": sandbox.rotating}[provider]


async def log_in(broker: RunningBroker, grant: str, provider: str) -> str:
    """Walk through a login as a person would; the last page's text."""
    status, started, _ = await broker.ask("POST", f"/v1/grants/{grant}/login", json={"provider": provider})
    assert status == 200, started
    return await walk_login(started["login_url"])


_MOVE = """
for i = 1, #ARGV, 2 do
  if not redis.call('ZSCORE', KEYS[1], ARGV[i + 1]) then return 0 end
end
redis.call('ZADD', KEYS[1], unpack(ARGV))
return 1
"""


async def make_due(redis: Redis, provider: str, *grants: str) -> None:
    """Move the data, not the clock: the grants are due now, all at once."""
    await fall_due(redis, provider, dict.fromkeys(grants, 1.0))


async def fall_due(redis: Redis, provider: str, at: Mapping[str, float], namespace: str = "broker") -> None:
    """Have each grant fall due at its time (epoch ms of Redis's clock), all moved in one stroke.

    Only once all of them wait: a grant that is being refreshed would be given another time by its commit, and both a
    server and a caller see a refresh a little before the commit.
    """
    moved = [word for grant, score in at.items() for word in (score, grant)]
    await until(lambda: redis.eval(_MOVE, 1, f"{namespace}:{{0}}:due:{provider}", *moved))


async def refused_often(redis: Redis, grant: str) -> None:
    """Move the data, not the clock: the next refusal of this grant, whatever its code, is the one that parks it."""
    seconds, _ = await redis.time()
    first, last = (seconds - 3600) * 1000, (seconds - 60) * 1000
    await redis.hset(f"broker:{{0}}:grant:{grant}", "refused", f"4 {first} {last}")


async def state_of(broker: RunningBroker, grant: str) -> dict[str, Any]:
    """Return a grant as the broker describes it."""
    return await broker.get(f"/v1/grants/{grant}")


async def next_generation(broker: RunningBroker, grant: str, after: int, timeout: float = 10) -> dict[str, Any]:
    """Return the token answer once the generation is another than *after*."""

    async def newer() -> dict[str, Any] | None:
        token = await broker.token(grant)
        return token if token["generation"] != after else None

    answer: dict[str, Any] = await until(newer, timeout)
    return answer


async def stored_refresh_token(broker: RunningBroker, grant: str) -> str:
    """Return the refresh token that lies sealed in Redis."""
    settings = broker.settings
    path = settings.sealing.keys_file or settings.data_dir / "sealing.keys"
    sealer = Sealer(parse_sealing_keys(path.read_text()))
    async with open_store(settings.redis, sealer, data_dir=settings.data_dir) as store:
        held = await store.grants.refresh_token(grant)
    assert held is not None, f"{grant} is not stored"
    return held[1].reveal()


async def assert_sound(broker: RunningBroker, sandbox: Sandbox, *grants: tuple[str, str]) -> None:
    """Check the central invariant: nothing redeemed twice, every stored refresh token the server's live one.

    A token is served from the moment its answer is on the broker's disk, a little before the store has it.
    """
    for grant, provider in grants:
        await until(partial(_is_live, broker, authority_of(sandbox, provider), grant), 5)
    assert {name: authority.reuse for name, authority in sandbox.authorities.items() if authority.reuse} == {}


async def _is_live(broker: RunningBroker, authority: Authority, grant: str) -> bool:
    return authority.is_live_refresh(await stored_refresh_token(broker, grant))


@contextlib.asynccontextmanager
async def subscribed(redis: Redis, grant: str) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield what a subscriber of this grant's channel hears."""
    heard: list[dict[str, Any]] = []
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(f"broker:tokens:{grant}")
        while (confirmed := await pubsub.get_message(timeout=5)) is None or confirmed["type"] != "subscribe":
            pass

        async def listen() -> None:
            async for message in pubsub.listen():
                if message["type"] == "message":
                    heard.append(json.loads(message["data"]))

        task = asyncio.create_task(listen())
        try:
            yield heard
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def everything(redis: Redis) -> dict[Any, Any]:
    """All keys as they are now."""
    dumps = {key: await redis.dump(key) for key in await redis.keys("*")}
    return {key: dump for key, dump in dumps.items() if dump is not None}


async def roll_back(redis: Redis, before: dict[Any, Any]) -> None:
    """Set the store back to what it was, on another run of the server."""
    async with redis.pipeline(transaction=True) as pipe:  # at once, as a failover is: brokers go on meanwhile
        pipe.flushall()  # type: ignore[unused-awaitable]
        for key, dump in before.items():
            life = 86_400_000 if b":clock:" in key else 0  # the one key here that expires
            pipe.restore(key, life, dump, replace=True)  # type: ignore[unused-awaitable]
        pipe.hset("broker:{0}:epoch", "run_id", "0000")  # type: ignore[unused-awaitable]
        await pipe.execute()
