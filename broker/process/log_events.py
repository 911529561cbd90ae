"""Every event that is logged: how loud, what it means, what to do. The page EVENTS.md is made from this.

A test holds that nothing else is logged and that nothing here is never logged. Knows nothing of anything.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One kind of line in the log."""

    levels: tuple[str, ...]
    means: str
    do: str = "nothing"


_DEBUG, _INFO, _WARNING, _ERROR, _CRITICAL = ("debug",), ("info",), ("warning",), ("error",), ("critical",)

EVENTS: dict[str, Event] = {
    "access": Event(
        ("debug", "info"),
        "a caller did something (`did`) to a grant; reads of tokens are at debug level",
        "keep it: it is the audit trail",
    ),
    "broker.died": Event(_CRITICAL, "a loop ended that must not; the process exits 1", "report it with the traceback"),
    "broker.listening": Event(_INFO, "the listeners are open"),
    "broker.started": Event(_INFO, "Redis is known and refreshing begins"),
    "broker.stopped": Event(_INFO, "everything under way was finished"),
    "broker.stopping": Event(_INFO, "told to end; reads are served for `http.drain_delay` still"),
    "cache.cold": Event(
        _WARNING, "`cache.warm` could not be loaded at start; grants are read when asked for", "see Redis"
    ),
    "cache.newer": Event(_DEBUG, "Redis told of a token older than the one in memory"),
    "clock.set_back": Event(
        _WARNING, "Redis's clock was set back; due times were brought back with it", "synchronise its host's clock"
    ),
    "commit.abandoned": Event(
        _CRITICAL,
        "the process had to end before Redis heard an answer; `journaled` says whether it is on disk",
        "start the broker on the same `data_dir`: it tells Redis then. Not journaled: log in again",
    ),
    "commit.delayed": Event(_WARNING, "Redis does not take an answer yet; it is told until it hears", "see Redis"),
    "commit.unproved": Event(
        _WARNING, "Redis cannot prove that commits are on its disk (`why`)", "appendonly yes, Redis 7.2 or newer"
    ),
    "connections.full": Event(
        _WARNING,
        "callers have as many connections (`open`) as they may (`limit`): the longest idle are closed for new ones",
        "see who opens so many, or raise `http.max_connections` and the limit of open files",
    ),
    "grant.given_back": Event(
        _WARNING, "a grant was replaced or forgotten while its answer was under way; what came was revoked"
    ),
    "grant.parked": Event(
        _ERROR,
        "a grant is asked for no more until a person acts: dead, rejected or sealed with a missing key",
        "`token-broker explain GRANT`",
    ),
    "grant.postponed": Event(
        _WARNING,
        "a token request brought nothing (`outcome`, `code`); the next is in `next_in` seconds",
        "if it goes on: `token-broker explain GRANT`",
    ),
    "grant.reauthorized": Event(_INFO, "a person logged in"),
    "grant.refreshed": Event(_INFO, "a new token was kept and published"),
    "grant.restored": Event(
        _WARNING, "Redis had lost a grant's last state and was told it again", "see what Redis lost"
    ),
    "grant.revoked": Event(_INFO, "a grant was logged out; `revoked` says whether the provider did its part"),
    "grant.unchanged": Event(_WARNING, "the provider sent the same access token again; asked once more when it ends"),
    "grant.unreadable": Event(
        _ERROR, "no key in `sealing.keys_file` opens a grant", "put the old key back, below the new"
    ),
    "grant.unusable": Event(
        _WARNING,
        "an answer carried no usable access token (`detail`); its refresh token was kept",
        "if it goes on: ask the provider",
    ),
    "journal.adopted": Event(_INFO, "the journal of a broker that ended was taken over"),
    "journal.failed": Event(
        _ERROR,
        "the journal cannot be written (`error`); only grants without a valid token are refreshed",
        "make room in `data_dir`, or mend its disk",
    ),
    "hook.failed": Event(
        _ERROR,
        "`sink`: what is to be done after a change failed (`error`); the file is good",
        "mend the command or pid file",
    ),
    "hook.run": Event(_INFO, "`sink`: the command after a change ended well"),
    "hook.signalled": Event(_INFO, "`sink`: the signal after a change was sent"),
    "journal.off": Event(_WARNING, "`refresh.journal` is false: what Redis loses is lost", "switch it on"),
    "journal.recovered": Event(_INFO, "the journal can be written again"),
    "journal.replayed": Event(_INFO, "Redis was told what it may have lost; by what it did with each"),
    "journal.unreadable": Event(_ERROR, "a journal is sealed with a key that is missing", "put the old key back"),
    "leases.abandoned": Event(
        _WARNING, "a broker that was killed had requests under way (`count`); their outcomes are unknown"
    ),
    "login.failed": Event(_WARNING, "a login did not come to its end (`error`)", "log in again"),
    "login.unrecorded": Event(
        _WARNING, "a login succeeded, but how it ended could not be written down; the command may say otherwise"
    ),
    "notice.failed": Event(
        _WARNING, "a notice was not taken (`error`); the next try is in `next_in` seconds", "`token-broker notify test`"
    ),
    "notice.sent": Event(_INFO, "a person was told, by webhook or command"),
    "provider.suspended": Event(
        _ERROR,
        "grant after grant was refused, so the provider is probed instead (a refused registration is `grant.postponed` "
        "with outcome `registration`)",
        "`token-broker explain GRANT`",
    ),
    "request.failed": Event(
        _ERROR, "a fault in token-broker while it answered a request", "report it with the traceback"
    ),
    "settings.not_reloaded": Event(
        _ERROR, "SIGHUP found wrong settings; the old ones hold", "mend `findings`, SIGHUP again"
    ),
    "settings.reloaded": Event(_INFO, "callers and log level were taken over"),
    "sink.expired": Event(
        _WARNING, "`sink`: the token in a file is dead and there is no other; `kept` or removed", "see the broker"
    ),
    "sink.not_written": Event(_ERROR, "`sink`: a file cannot be written (`error`)", "what it says"),
    "sink.reauthorization_required": Event(
        _ERROR, "`sink`: a grant is dead and nothing valid is left", "`token-broker login GRANT --provider P`"
    ),
    "sink.recovered": Event(_INFO, "`sink`: a file is followed again"),
    "sink.waiting": Event(
        _ERROR, "`sink`: no broker, or no token, for now (`error`); the file stays", "what it says; it goes on trying"
    ),
    "sink.written": Event(_INFO, "`sink`: a file has a new token"),
    "store.found": Event(_INFO, "Redis answers again"),
    "store.located": Event(_INFO, "the primary was found, or found elsewhere, by Sentinel or Cluster"),
    "store.lost": Event(
        _ERROR, "Redis does not answer; valid tokens are served from memory", "start it, or mend `redis.url`"
    ),
    "store.waiting": Event(_ERROR, "Redis has not answered since the start", "start it, or mend `redis.url`"),
    "subscription.lost": Event(_WARNING, "what others publish is not heard; everything in memory is read again after"),
}


def page() -> str:
    """Return the table of events."""
    rows = [f"| `{name}` | {', '.join(e.levels)} | {e.means} | {e.do} |" for name, e in sorted(EVENTS.items())]
    return "\n".join(["| event | level | what it means | what to do |", "|---|---|---|---|", *rows])


if __name__ == "__main__":
    print(page())  # noqa: T201 - to be put between the markers of process/EVENTS.md
