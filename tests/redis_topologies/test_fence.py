"""How long nobody claims on another run of Redis: until what was begun on the run before must have ended."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from redis import exceptions

from broker.secret import Sealer, new_sealing_key, parse_sealing_keys
from broker.settings import Redis
from broker.store import Store, open_store
from tests.redis_topologies.servers import Fleet, Server, in_step
from tests.waiting import until

KEY = new_sealing_key()
HOLD_OFF = timedelta(seconds=2)
BOUND = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "7")


@contextlib.asynccontextmanager
async def opened(server: Server, folder: Path, hold_off: timedelta = HOLD_OFF) -> AsyncIterator[Store]:
    """A broker's store on *server*."""
    url = server.url.replace("redis://", "redis://broker:pw@")
    async with open_store(Redis(url=url), Sealer(parse_sealing_keys(KEY)), data_dir=folder, hold_off=hold_off) as store:
        await store.identify()
        yield store


async def serving(fleet: Fleet, *options: str, rights: str = "+@all") -> Server:
    """A server with a replica and our user on it."""
    server = fleet.data("--repl-diskless-sync-delay", "0", *options)
    await until(server.answers, 15)
    replica = fleet.data("--replicaof", f"127.0.0.1 {server.port}")
    await until(replica.answers, 15)
    await in_step(replica)
    await server.ask("ACL", "SETUSER", "broker", "on", ">pw", "~*", "&*", *rights.split())

    async def takes_writes() -> bool:
        with contextlib.suppress(exceptions.RedisError):
            return bool(await server.ask("SET", "probe", "1"))
        return False

    await until(takes_writes, 15)
    return server


async def another_run(server: Server) -> None:
    """What a failover shows of itself in our data."""
    await server.ask("HSET", "broker:{0}:epoch", "run_id", "0000")


@pytest.mark.parametrize(
    ("options", "rights", "seconds"),
    [
        ((), "+@all", 2),
        (BOUND, "+@all", 2 + 7),
        (BOUND, "+@all -config", 2 + 10),
    ],
    ids=["no bound", "a bound", "a bound that it does not tell"],
)
async def test_hold_off_outlasts_a_primary_without_replicas(
    fleet: Fleet, tmp_path: Path, options: tuple[str, ...], rights: str, seconds: float
) -> None:
    """A primary that was cut off takes claims until min-replicas-max-lag has passed, and a request after that."""
    server = await serving(fleet, *options, rights=rights)
    async with opened(server, tmp_path) as store:
        await another_run(server)
        fenced = await store.schedule.claim("p", 1, 60_000)
        assert fenced.fenced is not None
        assert fenced.wait_ms == seconds * 1000


async def test_the_longest_hold_off_counts(fleet: Fleet, tmp_path: Path) -> None:
    """A broker with shorter times does not take another's longer fence for a clock that was set back."""
    server = await serving(fleet)
    async with (
        opened(server, tmp_path / "a", timedelta(seconds=60)) as patient,
        opened(server, tmp_path / "b") as hasty,
    ):
        await another_run(server)
        fence = (await patient.schedule.claim("p", 1, 60_000)).fenced
        assert fence is not None
        hasty.schedule.replayed_after = fence
        claimed = await hasty.schedule.claim("p", 1, 60_000)
        assert claimed.fenced == fence
        assert 50_000 < claimed.wait_ms <= 60_000
