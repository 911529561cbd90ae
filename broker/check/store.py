"""What the facts about the store mean. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.check.clocks import check_clock
from broker.check.finding import Finding
from broker.store.redis.moved import describe_move
from broker.store.redis.replies import EMPTY, OTHER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.settings import Redis
    from broker.store.facts import StoreFacts

_OLDEST = (7, 2)
"""The first Redis with WAITAOF."""
_SCRIPTS = (7, 0)
"""The first one that runs the broker's scripts."""
_WHERE = "redis"
_MANY_SEALS = 2**31
"""Half of what random nonces are safe for: there is time to change the key."""
_LOST = "a crash loses writes that it acknowledged, except those that the brokers' journals still hold"


def check_store(facts: StoreFacts, redis: Redis, known: str | None) -> Iterator[Finding]:
    """Yield the findings of the server behind `redis.url`; *known* is the store that data_dir remembers."""
    if facts.unreachable is not None:
        if not facts.unreachable:
            yield Finding("ok", _WHERE, "the embedded store is not running: `token-broker run` starts it")
            return
        yield Finding(
            "failed",
            _WHERE,
            f"Redis {facts.unreachable}",
            "the broker refreshes nothing and serves tokens only from memory",
            facts.cure,
        )
        return
    yield Finding("ok", _WHERE, facts.server or "it replies")
    embedded = redis.url == "embedded:"
    yield from _check_permissions(facts, redis.namespace)
    if not embedded:
        yield from _check_durability(facts)
        yield from _check_eviction(facts)
        yield from _check_replicas(facts, redis)
    yield from _check_contents(facts, redis, known)
    yield from check_clock(_WHERE, facts.offset)


def why_too_old(facts: StoreFacts) -> str | None:
    """Return why the server cannot run the broker's scripts, and what to do; None where it can."""
    if facts.version is None or facts.valkey or facts.version >= _SCRIPTS:
        return None
    return f"{facts.server} is too old for the broker's scripts: use Redis 7.2 or Valkey"


def _check_permissions(facts: StoreFacts, namespace: str) -> Iterator[Finding]:
    if facts.denied is None:
        yield Finding(
            "unknown",
            _WHERE,
            "whether the broker's user may send every command that a broker sends",
            "Redis before 7.0, or no EVAL: no script can test it",
            "compare its ACL with deploy/redis/users.acl",
        )
    elif facts.denied:
        words = " ".join(f"+{command.lower()}" for command in facts.denied)
        channels = sorted({"PUBLISH", "PSUBSCRIBE"} & set(facts.denied))
        hears = f"; {' and '.join(channels)} on the channels {namespace}:tokens:*" if channels else ""
        words += f" &{namespace}:tokens:*" if channels else ""  # Redis 7 lets a new user use no channel
        yield Finding(
            "failed",
            _WHERE,
            f"the broker's user may not send {', '.join(facts.denied)}{hears}",
            "a broker cannot work without",
            f"ACL SETUSER … {words}, with the broker's keys, as deploy/redis/users.acl has it",
        )
    else:
        yield Finding("ok", _WHERE, "the broker's user may send every command that a broker sends")


def _check_durability(facts: StoreFacts) -> Iterator[Finding]:
    if facts.version is None:
        yield Finding(
            "unknown", _WHERE, "its version", "it denies INFO", "allow INFO to the broker's user (ACL: +info)"
        )
    elif not facts.valkey and facts.version < _OLDEST:
        yield Finding(
            "warning",
            _WHERE,
            f"{facts.server} cannot prove that a commit is on its disk (WAITAOF came with 7.2)",
            _LOST,
            "use Redis 7.2 or Valkey, or appendfsync always",
        )
    if facts.aof is False:
        yield Finding("warning", _WHERE, "appendonly is off", _LOST, "CONFIG SET appendonly yes")
    elif facts.waitaof:
        yield Finding(
            "warning",
            _WHERE,
            f"WAITAOF fails: Redis {facts.waitaof}",
            "nothing proves that a commit is on its disk",
            "ACL: +waitaof; Redis 7.2 or Valkey",
        )
    if facts.aof and facts.appendfsync is None:
        yield Finding(
            "unknown",
            _WHERE,
            "appendfsync",
            "it denies CONFIG GET, as managed servers do; WAITAOF proves each commit anyway"
            if facts.waitaof == ""
            else "it denies CONFIG GET",
            "make sure that it is always or everysec",
        )
    elif facts.aof and facts.appendfsync == "no":
        yield Finding("warning", _WHERE, "appendfsync is no", _LOST, "CONFIG SET appendfsync always")
    elif facts.aof:
        yield Finding("ok", _WHERE, f"appendonly, appendfsync {facts.appendfsync}")


def _check_eviction(facts: StoreFacts) -> Iterator[Finding]:
    if facts.policy is None:
        yield Finding(
            "unknown", _WHERE, "maxmemory-policy", "neither INFO nor CONFIG shows it", "make sure that it is noeviction"
        )
    elif facts.policy not in {"noeviction", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"}:
        yield Finding(
            "warning",
            _WHERE,
            f"maxmemory-policy is {facts.policy}",
            "when its memory is full it deletes grants, and their refresh tokens are gone",
            "CONFIG SET maxmemory-policy noeviction",
        )
    elif facts.policy != "noeviction":
        yield Finding(
            "warning",
            _WHERE,
            f"maxmemory-policy is {facts.policy}",
            "when its memory is full it deletes pending logins",
            "CONFIG SET maxmemory-policy noeviction",
        )


def _check_replicas(facts: StoreFacts, redis: Redis) -> Iterator[Finding]:
    if facts.replicas is None:
        return
    if facts.replicas < redis.replicas:
        yield Finding(
            "warning",
            _WHERE,
            f"{facts.replicas} replicas are connected, redis.replicas is {redis.replicas}",
            "no commit can be confirmed by as many",
            "start them, or lower redis.replicas",
        )
    if facts.replicas and not facts.min_replicas:
        yield Finding(
            "warning",
            _WHERE,
            f"{facts.replicas} replicas, but min-replicas-to-write is 0",
            "a primary that was cut off still accepts claims and commits: a broker that was cut off with it redeems "
            "refresh tokens that the others redeem too, and only its journal holds the responses",
            "CONFIG SET min-replicas-to-write 1",
        )


def _check_contents(facts: StoreFacts, redis: Redis, known: str | None) -> Iterator[Finding]:
    if move := describe_move(facts.store or ""):
        yield Finding("failed", _WHERE, move[0], "no broker refreshes anything with it", move[1])
    elif known is not None and facts.store != known:
        what = "is empty" if facts.store is None else f"holds another store ({facts.store})"
        yield Finding(
            "failed",
            _WHERE,
            f"namespace {redis.namespace!r} {what}, but this broker knows store {known}",
            "the broker will not become ready, so that no grant counts as gone",
            EMPTY if facts.store is None else OTHER,
        )
    if facts.unknown_schema is not None and not describe_move(facts.store or ""):
        yield Finding(
            "error",
            _WHERE,
            f"the data under namespace {redis.namespace!r} {facts.unknown_schema.partition(':')[0]}",
            "the broker does not start",
            facts.unknown_schema.partition(": ")[2],
        )
    if facts.canary == "none opens":
        yield Finding(
            "error",
            "sealing.keys_file",
            "none of its keys opens what is stored",
            "no grant can be used",
            "put the old key back into the file, below the new one",
        )
    elif facts.canary == "other":
        yield Finding(
            "warning",
            "sealing.keys_file",
            "what is stored is sealed with another key than the first",
            "the other key is still needed",
            "token-broker keys reseal, once every broker has the new key first",
        )
    elif facts.canary == "first":
        yield Finding("ok", "sealing.keys_file", "its first key opens what is stored")
    if facts.canary in {"first", "other"} and not facts.bound:
        yield Finding(
            "warning",
            "sealing.keys_file",
            "what an older version stored is not bound to its provider",
            "whoever can write Redis can have a refresh token sent to another provider of the settings",
            "once every broker is of this version: token-broker keys reseal",
        )
    if facts.seals >= _MANY_SEALS:
        yield Finding(
            "warning",
            "sealing.keys_file",
            f"its first key sealed about {facts.seals:,} values; random nonces are safe up to {2**32:,}",
            "beyond that two values may be sealed with one nonce, and whoever reads Redis could open them",
            "put a new key first (token-broker keys new), restart every broker, then token-broker keys reseal",
        )
    if facts.foreign:
        yield Finding(
            "warning",
            _WHERE,
            f"another store ({', '.join(facts.foreign)}) publishes on this namespace's channels",
            "channels ignore database numbers: consumers may get tokens of another environment",
            f"give each environment its own redis.namespace (this one: {redis.namespace})",
        )
