"""What the server behind `redis.url` is like: queried for `check`. Changes nothing there.

Nothing queried here is needed to run: where a server or an ACL denies a query, the fact stays unknown (None).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from broker.errors import StoreUnavailable
from broker.secret import CannotOpen, Sealer
from broker.store.opening import unknown_schema
from broker.store.redis.embedded import running_server
from broker.store.redis.primary import Primary
from broker.store.resealing import CANARY, CANARY_BOUND
from broker.store.scripts import Keys
from broker.store.seals import read_seals
from broker.token_answer import json_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Literal

    from broker.settings import Redis

_KEY, _CHANNEL, _CHANNELS = "{key}", "{channel}", "{channels}"
NEEDED: Sequence[tuple[str, ...]] = (
    ("PING",),
    ("TIME",),
    ("INFO", "server"),
    ("CLIENT", "SETNAME", "x"),
    ("WAITAOF", "0", "0", "1"),
    ("EVAL", "return 1", "0"),
    ("EVALSHA", "0" * 40, "0"),
    ("GET", _KEY),
    ("SET", _KEY, "x"),
    ("DEL", _KEY),
    ("EXISTS", _KEY),
    ("SCAN", "0"),
    ("HGET", _KEY, "x"),
    ("HMGET", _KEY, "x"),
    ("HGETALL", _KEY),
    ("HSET", _KEY, "x", "x"),
    ("HSETNX", _KEY, "x", "x"),
    ("HINCRBY", _KEY, "x", "1"),
    ("HDEL", _KEY, "x"),
    ("HKEYS", _KEY),
    ("HLEN", _KEY),
    ("RPUSH", _KEY, "x"),
    ("LTRIM", _KEY, "0", "0"),
    ("LRANGE", _KEY, "0", "0"),
    ("ZADD", _KEY, "1", "x"),
    ("ZREM", _KEY, "x"),
    ("ZREMRANGEBYSCORE", _KEY, "0", "0"),
    ("ZSCORE", _KEY, "x"),
    ("ZCARD", _KEY),
    ("ZRANGE", _KEY, "0", "0"),
    ("ZRANGEBYSCORE", _KEY, "0", "0"),
    ("PUBLISH", _CHANNEL, "x"),
    ("PSUBSCRIBE", _CHANNELS),
)
"""Every command that a broker sends, as its user must be allowed to: what deploy/redis/users.acl grants."""
OF_CLUSTER = ("CLUSTER", "SLOTS")

_MAY = """
local denied = {}
for _, line in ipairs(cjson.decode(ARGV[1])) do
  local known, may = pcall(redis.acl_check_cmd, unpack(line))
  if known and not may then denied[#denied + 1] = line[1] end
end
return denied
"""
"""Check whether the broker's user may send each command, without sending any (Redis 7.0)."""


@dataclass(slots=True)
class StoreFacts:
    """What the queries showed. None: the server does not say, or not to this user."""

    unreachable: str | None = None
    """Why nothing is known, in words."""
    cure: str = ""
    """What helps against that."""
    server: str = ""
    """`valkey 9.1.2`."""
    version: tuple[int, ...] | None = None
    """Of Redis, with which Valkey says it is compatible."""
    valkey: bool = False
    aof: bool | None = None
    appendfsync: str | None = None
    policy: str | None = None
    """What it evicts when its memory is full (`maxmemory-policy`)."""
    replicas: int | None = None
    """Connected ones."""
    min_replicas: bool | None = None
    """Whether it rejects writes without enough of them."""
    waitaof: str | None = None
    """The error of a WAITAOF: empty if it works."""
    denied: tuple[str, ...] | None = None
    """Commands that the broker's user may not send."""
    store: str | None = None
    """Id of the store there; None if there is none yet."""
    unknown_schema: str | None = None
    """What is wrong with the schema of the data, and what to do."""
    canary: Literal["first", "other", "none opens"] | None = None
    bound: bool = False
    """Whether every sealed value is known to be bound to its provider."""
    seals: int = 0
    """How many values the first key has sealed, as far as brokers counted them."""
    """Which of the sealing keys opens what is stored."""
    foreign: tuple[str, ...] = ()
    """Ids of other stores that published on the namespace's channels."""
    offset: float | None = None
    """Seconds by which this host's clock is ahead of the server's."""
    unanswered: dict[str, str] = field(default_factory=dict)
    """Queries without a result, and the error instead."""


async def fetch_facts(
    redis: Redis, sealer: Sealer | None, *, data_dir: Path, password: str | None, listen: float = 1.0
) -> StoreFacts:
    """Query the server that *redis* names, and listen for messages of other stores. Never raises for the server.

    Args:
        redis: the settings.
        sealer: tries what is stored; None: no sealing key is known.
        data_dir: where an embedded store would run.
        password: of Redis.
        listen: seconds.
    """
    facts, url = StoreFacts(), redis.url
    if url.startswith("embedded:"):
        running = await running_server(data_dir)
        if running is None:
            facts.unreachable = ""
            return facts
        url = running
    primary = Primary(url, password=password)
    try:
        await _query(primary, facts, Keys(redis.namespace), sealer, cluster="cluster" in redis.url.partition(":")[0])
        facts.foreign = await _foreign_stores(primary, redis.namespace, facts.store, listen)
    except StoreUnavailable as error:
        facts.unreachable, facts.cure = str(error).removeprefix("Redis: ").removeprefix("Redis "), error.cure
    finally:
        await primary.close()
    return facts


async def _query(primary: Primary, facts: StoreFacts, keys: Keys, sealer: Sealer | None, *, cluster: bool) -> None:
    began = time.time()
    seconds, micros = await primary.call("TIME")
    facts.offset = (began + time.time()) / 2 - (int(seconds) + int(micros) / 1_000_000)
    facts.denied = await find_denied(primary, keys, (*NEEDED, OF_CLUSTER) if cluster else NEEDED)
    info = _parse(await _maybe(primary, facts, "INFO") or b"")
    if "redis_version" in info:
        _add_info(facts, info)
    for name in ("appendfsync", "maxmemory-policy"):
        pair = await _maybe(primary, facts, "CONFIG", "GET", name)
        if isinstance(pair, list) and len(pair) == 2:
            value = pair[1].decode()
            if name == "appendfsync":
                facts.appendfsync = value
            else:
                facts.policy = value
    try:
        await primary.call("WAITAOF", 1, 0, 100)
        facts.waitaof = ""
    except StoreUnavailable as error:
        facts.waitaof = str(error).removeprefix("Redis: ")
    held, sealed, schema = await primary.call("HMGET", keys.meta, "store", "canary", "schema")
    facts.store = held.decode() if held else None
    facts.unknown_schema = unknown_schema(schema) if held else None
    if sealer is not None:
        facts.seals = await read_seals(primary, keys, sealer)
    if sealer is not None and sealed:
        try:
            canary = sealer.open(sealed, *CANARY, purpose="meta")
            facts.bound = canary == CANARY_BOUND
            facts.canary = "first" if sealer.is_current(sealed) else "other"
        except CannotOpen:
            facts.canary = "none opens"


async def _maybe(primary: Primary, facts: StoreFacts, *command: str) -> Any:
    """Return the reply to a query that may be denied; None then, and the error is kept."""
    try:
        return await primary.call(*command)
    except StoreUnavailable as error:
        facts.unanswered[" ".join(command)] = str(error)
        return None


async def find_denied(primary: Primary, keys: Keys, needed: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return which of the commands *needed* the user may not send; None where no script can test it."""
    names = {_KEY: keys.grant("check"), _CHANNEL: keys.channel("check"), _CHANNELS: keys.channel("*")}
    lines = [[names.get(word, word) for word in line] for line in needed]
    try:
        denied = await primary.call("EVAL", _MAY, 0, json.dumps(lines))
    except StoreUnavailable:
        return None
    return tuple(name.decode() for name in denied)


def _parse(info: bytes) -> Mapping[str, str]:
    pairs = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines() if ":" in line)
    return {name: value for name, _, value in pairs}


def _add_info(facts: StoreFacts, info: Mapping[str, str]) -> None:
    valkey = info.get("valkey_version")
    facts.valkey = valkey is not None
    facts.server = f"valkey {valkey}" if valkey else f"redis {info['redis_version']}"
    with contextlib.suppress(ValueError):
        facts.version = tuple(int(part) for part in info["redis_version"].split("."))
    if "aof_enabled" in info:
        facts.aof = info["aof_enabled"] == "1"
    facts.policy = info.get("maxmemory_policy")
    if "connected_slaves" in info:
        facts.replicas = int(info["connected_slaves"])
        facts.min_replicas = "min_slaves_good_slaves" in info


async def _foreign_stores(primary: Primary, namespace: str, own: str | None, seconds: float) -> tuple[str, ...]:
    """Listen for *seconds* and return the ids of other stores that publish on the namespace's channels."""
    heard: set[str] = set()
    with contextlib.suppress(TimeoutError, StoreUnavailable):
        async with asyncio.timeout(seconds), primary.subscription(f"{namespace}:tokens:*") as subscription:
            while True:
                stores = {_store_of(data) for _, data in await subscription.receive()}
                heard |= {store for store in stores if store is not None and store != own}
    return tuple(sorted(heard))


def _store_of(message: bytes) -> str | None:
    try:
        store = json_value(message)["store"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return store if isinstance(store, str) and store.isalnum() and len(store) <= 64 else None
