"""Two real servers, a store in the first, and moves of it to the second that are broken off where a test says."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker.errors import StoreUnavailable, WrongStore
from broker.store import Store
from broker.store.moving import Ends, Move
from broker.store.redis.primary import Primary
from broker.store.scripts import Keys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from tests.redis_server import RedisServer

META = "broker:{0}:meta"
WRITES = ("run", "run_each", "run_durably")


class BrokenOff(Exception):
    """Stands for the end of the process."""


class Ending(Primary):
    """A primary whose process ends at a write: before the server has it, or after."""

    plan: Plan

    async def run(self, *args: Any) -> Any:
        """Run a script."""
        return await self.plan.write(lambda: super(Ending, self).run(*args))

    async def run_each(self, *args: Any) -> Any:
        """Run a script several times."""
        return await self.plan.write(lambda: super(Ending, self).run_each(*args))

    async def run_durably(self, *args: Any, **options: Any) -> Any:
        """Run a script and wait for the disk."""
        return await self.plan.write(lambda: super(Ending, self).run_durably(*args, **options))

    async def call(self, *command: Any) -> Any:
        """Send a command; EVAL is a write."""
        if command[0] != "EVAL" or "HSET" not in str(command[1]):
            return await super().call(*command)
        return await self.plan.write(lambda: super(Ending, self).call(*command))


@dataclass(slots=True)
class Plan:
    """At which write the process ends, and on which side of it; None: never."""

    at: int | None = None
    after: bool = False
    writes: int = 0

    async def write(self, send: Any) -> Any:
        """Send a write, unless this is the one."""
        self.writes += 1
        if self.writes == self.at and not self.after:
            raise BrokenOff
        reply = await send()
        if self.writes == self.at:
            raise BrokenOff
        return reply


@asynccontextmanager
async def moving(source: str, target: str, plan: Plan | None = None, **options: Any) -> AsyncIterator[Move]:
    """Yield a move between two URLs."""
    ends = [Ending(source), Ending(target)]
    for end in ends:
        end.plan = plan or Plan()
    try:
        yield Move(Ends(ends[0], ends[1], source, target), Keys("broker"), **options)
    finally:
        for end in ends:
            await end.close()


async def move(source: str, target: str, plan: Plan | None = None) -> Any:
    """Move once."""
    async with moving(source, target, plan) as one:
        return await one.run(wait_s=0.05)


async def contents(redis: Redis) -> dict[bytes, Any]:
    """Return all keys but `meta` and `epoch`, each with its value."""
    held: dict[bytes, Any] = {}
    key: Any
    for key in await redis.keys("*"):
        if key.endswith((b":meta", b":epoch")):
            continue
        kind = await redis.type(key)
        if kind == b"hash":
            held[key] = await redis.hgetall(key)
        elif kind == b"zset":
            held[key] = await redis.zrange(key, 0, -1, withscores=True)
        elif kind == b"list":
            held[key] = await redis.lrange(key, 0, -1)
        else:
            held[key] = (await redis.get(key), await redis.ttl(key) > 0)
    return held


async def runs_in(store: Store, server: RedisServer) -> bool:
    """Return whether a broker that knows *store* may write at *server*."""
    primary = Primary(server.url)
    primary.mark = store.primary.mark
    try:
        await store_answers(primary, store)
    except WrongStore:
        return False
    finally:
        await primary.close()
    return True


async def store_answers(primary: Primary, store: Store) -> None:
    """Run a script that changes nothing."""
    from broker.store import scripts

    keys = scripts.RELEASE.keys(due=store.keys.ids("due", "p"), leased="broker:{0}:leased:p", grant_prefix="x")
    await primary.run(scripts.RELEASE, keys, scripts.RELEASE.args(claim_id="none"))


__all__ = ["META", "BrokenOff", "Plan", "StoreUnavailable", "contents", "move", "moving", "runs_in"]
