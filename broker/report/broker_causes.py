"""What is wrong with the broker itself: its store, its disk, its loops, its connections. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.report.cause import EXAMPLES, Cause, capitalise, count_grants, name_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.report.facts import Facts, LoopFacts, StoreTrouble

_LOOPS = {
    "follower": "the loop that keeps memory current",
    "history": "the loop that counts outcomes",
    "held logins": "the loop that ends logins nobody decided",
    "verdict": "the loop that judges the state of the broker",
}


def find_broker_causes(facts: Facts) -> Iterator[Cause]:
    """Return what is wrong with the broker, its disk and its store."""
    if facts.store is not None:
        yield _store(facts, facts.store)
    elif facts.unproved:
        yield _unproved(facts)
    if facts.journal_fault:
        yield _journal(facts)
    if facts.audit_fault:
        yield _audit(facts)
    if facts.lost:
        yield _lost(facts)
    for loop in facts.loops:
        yield _loop(loop)
    if facts.connections:
        what, _, action = facts.connections.partition(": ")
        yield Cause(
            "connections",
            "recovering",
            f"{capitalise(what)}.",
            facts.connections,
            since=facts.connections_since,
            next="Connections that idle are closed for new ones.",
            action=capitalise(action),
        )


def _store(facts: Facts, store: StoreTrouble) -> Cause:
    served = "valid tokens in memory are served" if facts.memory.tokens else "callers get no token"
    unknown = ", and the state of the grants is not known" if facts.providers is None else ""
    what = store.what.rstrip(".")
    away = store.kind == "redis"
    return Cause(
        store.kind,
        "recovering" if away else "failing",
        f"{what}: {served}, nothing is refreshed{unknown}.",
        f"{what}; {store.cure}",
        since=store.since,
        next="The broker asks Redis again every second, and goes on by itself as soon as Redis can be used."
        if away
        else "Nothing, until the store of this broker is there again.",
        action=capitalise(store.cure),
    )


def _unproved(facts: Facts) -> Cause:
    what = f"Redis answers, but cannot prove that the last commit is on disk: {facts.unproved}"
    action = "Connect the replicas of Redis, or lower redis.replicas"
    return Cause("redis", "recovering", f"{what}.", what, next="Refreshing goes on.", action=action)


def _journal(facts: Facts) -> Cause:
    what = f"the journal in data_dir cannot be written ({facts.journal_fault})"
    action = "make room in data_dir, or correct what keeps the disk from writing"
    return Cause(
        "journal",
        "failing",
        f"{capitalise(what)}: until then only grants without a valid token are refreshed.",
        f"{what}: {action}",
        since=facts.journal_since,
        next="The broker tries the disk again every second, and goes on by itself as soon as it takes writes.",
        action=capitalise(action),
    )


def _audit(facts: Facts) -> Cause:
    what = f"the audit stream cannot be written ({facts.audit_fault})"
    refused = "callers get 503 instead of tokens, and nobody can log in, because"
    action = "make room on the disk of audit.file, or correct what keeps the broker from writing it"
    if facts.audit_refuses:
        sentence = f"{capitalise(refused)} {what} and audit.on_failure is `refuse`."
    else:
        sentence = f"{capitalise(what)}: callers are served, and its lines wait in memory, up to a limit."
    return Cause(
        "audit",
        "failing",
        sentence,
        f"{refused} {what}: {action}" if facts.audit_refuses else f"{what}: {action}",
        since=facts.audit_since,
        next="The broker tries the file again every second, and goes on by itself as soon as it takes lines.",
        action=capitalise(action),
    )


def _lost(facts: Facts) -> Cause:
    count, many = len(facts.lost), len(facts.lost) > 1
    what = "Redis lost the data of {}, and no journal restores " + ("them" if many else "it")
    action = "log in again to {}, or start the brokers whose journals may hold " + ("them" if many else "it")
    named, counted = name_ids(facts.lost), count_grants(count)
    return Cause(
        "lost",
        "login_needed",
        f"{what.format(counted)}.",
        f"{what.format(named)}: {action.format('them' if many else 'it')}",
        f"{what.format(counted)}: {action.format('them' if many else 'it')}",
        since=facts.lost_since,
        grants=count,
        unserved=count,
        next="Nothing, unless a broker starts whose journal holds the last answer.",
        action=capitalise(action.format(named)),
        public_action=capitalise(action.format(counted)),
        examples=tuple(facts.lost[:EXAMPLES]),
    )


def _loop(loop: LoopFacts) -> Cause:
    provider = loop.name.removeprefix("lane ") if loop.name.startswith("lane ") else None
    if loop.alive:
        what = loop.what.rstrip(".")
        return Cause(
            "loop",
            "recovering",
            f"{capitalise(what)}.",
            what,
            provider=provider,
            since=loop.since,
            next="The broker tries again by itself.",
        )
    who = f"the loop that refreshes the grants of {provider}" if provider else _LOOPS.get(loop.name)
    who = who or f"the loop {loop.name}"
    return Cause(
        "loop",
        "failing",
        f"{capitalise(who)} makes no progress ({loop.what}).",
        f"{who} makes no progress: restart the broker",
        provider=provider,
        since=loop.since,
        action="Restart the broker, and report it: this is a bug, or a machine that stands still",
    )
