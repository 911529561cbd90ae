"""What facts about the store mean. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.check.clocks import of_clock
from broker.check.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.settings import Redis
    from broker.store.facts import StoreFacts

_OLDEST = (7, 2)
"""Redis that knows WAITAOF."""
_WHERE = "redis"
_LOST = "what it acknowledged is lost when it crashes, but for what the brokers' journals still hold"


def of_store(facts: StoreFacts, redis: Redis, known: str | None) -> Iterator[Finding]:
    """Findings of the server behind `redis.url`; *known* is the store that data_dir remembers."""
    if facts.unreachable is not None:
        if not facts.unreachable:
            yield Finding("ok", _WHERE, "the embedded store is not running: `token-broker run` starts it")
            return
        yield Finding(
            "failed",
            _WHERE,
            f"it {facts.unreachable}",
            "nothing is refreshed and nobody is served but from memory",
            "start it, or mend redis.url",
        )
        return
    yield Finding("ok", _WHERE, facts.server or "it answers")
    embedded = redis.url == "embedded:"
    yield from _permissions(facts)
    if not embedded:
        yield from _durability(facts)
        yield from _eviction(facts)
        yield from _replicas(facts, redis)
    yield from _contents(facts, redis, known)
    yield from of_clock(_WHERE, facts.offset)


def _permissions(facts: StoreFacts) -> Iterator[Finding]:
    if facts.denied is None:
        yield Finding(
            "unknown",
            _WHERE,
            "whether our user may send all that a broker sends",
            "it lets no script ask (Redis before 7.0, or no EVAL)",
            "compare its ACL with deploy/redis/users.acl",
        )
    elif facts.denied:
        words = " ".join(f"+{command.lower()}" for command in facts.denied)
        yield Finding(
            "failed",
            _WHERE,
            f"our user may not send {', '.join(facts.denied)}",
            "a broker cannot work without",
            f"ACL SETUSER … {words}, with our keys and channels, as deploy/redis/users.acl has it",
        )
    else:
        yield Finding("ok", _WHERE, "our user may send all that a broker sends")


def _durability(facts: StoreFacts) -> Iterator[Finding]:
    if facts.version is None:
        yield Finding("unknown", _WHERE, "its version", "it does not answer INFO", "let our user ask (ACL: +info)")
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
            f"WAITAOF is refused: it {facts.waitaof}",
            "nothing proves that a commit is on its disk",
            "ACL: +waitaof; Redis 7.2 or Valkey",
        )
    if facts.aof and facts.appendfsync is None:
        yield Finding(
            "unknown",
            _WHERE,
            "appendfsync",
            "it does not answer CONFIG GET, as managed servers do; WAITAOF proves each commit all the same"
            if facts.waitaof == ""
            else "it does not answer CONFIG GET",
            "see to it that it is always or everysec",
        )
    elif facts.aof and facts.appendfsync == "no":
        yield Finding("warning", _WHERE, "appendfsync is no", _LOST, "CONFIG SET appendfsync always")
    elif facts.aof:
        yield Finding("ok", _WHERE, f"appendonly, appendfsync {facts.appendfsync}")


def _eviction(facts: StoreFacts) -> Iterator[Finding]:
    if facts.policy is None:
        yield Finding(
            "unknown", _WHERE, "what it evicts", "it says neither by INFO nor by CONFIG", "make sure it is noeviction"
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
            "when its memory is full it deletes logins under way",
            "CONFIG SET maxmemory-policy noeviction",
        )


def _replicas(facts: StoreFacts, redis: Redis) -> Iterator[Finding]:
    if facts.replicas is None:
        return
    if facts.replicas < redis.replicas:
        yield Finding(
            "warning",
            _WHERE,
            f"{facts.replicas} replicas are connected, redis.replicas is {redis.replicas}",
            "no commit can be confirmed by so many",
            "start them, or lower redis.replicas",
        )
    if facts.replicas and not facts.min_replicas:
        yield Finding(
            "warning",
            _WHERE,
            f"{facts.replicas} replicas, but min-replicas-to-write is 0",
            "a primary that was cut off goes on taking claims and commits: a broker that was cut off with it redeems "
            "refresh tokens that the others redeem too, and only its journal has what it got",
            "CONFIG SET min-replicas-to-write 1",
        )


def _contents(facts: StoreFacts, redis: Redis, known: str | None) -> Iterator[Finding]:
    if known is not None and facts.store != known:
        what = "is empty" if facts.store is None else f"holds another store ({facts.store})"
        yield Finding(
            "failed",
            _WHERE,
            f"namespace {redis.namespace!r} {what}, but this broker knows store {known}",
            "it will not be ready, so that nothing is taken for gone",
            "restore the data, mend redis.url, or, to begin anew, stop the broker and remove store.id from data_dir",
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
            "the other key cannot go yet",
            "token-broker keys reseal, once every broker has the new key first",
        )
    elif facts.canary == "first":
        yield Finding("ok", "sealing.keys_file", "its first key opens what is stored")
    if facts.foreign:
        yield Finding(
            "warning",
            _WHERE,
            f"another store ({', '.join(facts.foreign)}) publishes on our channels",
            "channels know no database numbers: consumers may get tokens of another environment",
            f"give each environment its own redis.namespace (this one: {redis.namespace})",
        )
