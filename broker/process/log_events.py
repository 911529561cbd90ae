"""The register of log events: the level of each, what it means, and what an operator does about it.

A test holds that the broker logs nothing else, and that every event here is logged. The reference of the events is
made from it. Knows no other module.
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
        "a caller acted on a grant (`did` says how); reads of tokens are logged at debug level",
        "keep it, or have `audit.file` keep a stream of its own",
    ),
    "access.denials_left_out": Event(
        _WARNING,
        "`count` more refusals of one `reason` within `seconds` were counted, and not logged or audited one by one",
        "see `token_broker_denied_total`, and the peers in `access.denied`",
    ),
    "access.denied": Event(
        _WARNING,
        "a request was refused: `reason` says why, `caller` and `peer` whose it was; at most 10 a minute of one reason",
        "if it is yours: correct its key, or give it the right in the settings",
    ),
    "audit.failed": Event(
        _ERROR,
        "the audit stream cannot be written, or has no room for lines to come (`error`); lines wait, and the broker "
        "tries every second",
        "free space on its disk, or correct `audit.file`; `audit.on_failure` says whether requests are refused",
    ),
    "audit.recovered": Event(
        _WARNING, "the audit stream is written again; `lost` lines found no room meanwhile", "find out what stopped it"
    ),
    "broker.died": Event(
        _CRITICAL, "a loop ended unexpectedly; the process exits 1", "report it together with the traceback"
    ),
    "broker.listening": Event(_INFO, "the listeners are open"),
    "broker.started": Event(_INFO, "Redis answered, and refreshing begins"),
    "broker.stopped": Event(_INFO, "the broker finished all work in flight and stopped"),
    "broker.stopping": Event(_INFO, "the broker received a signal to stop; it serves reads for `http.drain_delay`"),
    "cache.cold": Event(
        _WARNING,
        "the grants of `cache.warm` could not be loaded at start; each is loaded when a caller asks for it",
        "see whether Redis answers",
    ),
    "cache.newer": Event(_DEBUG, "Redis published a token that is older than the one in memory"),
    "clock.set_back": Event(
        _WARNING,
        "the clock of Redis was set back by `seconds`; ends of tokens and due times move back as well",
        "synchronise the clock of the Redis host",
    ),
    "clock.jumped": Event(
        _WARNING,
        "the clock of Redis jumped ahead by `seconds`, or the broker's machine stood still: tokens may end early",
        "synchronise the clock of the Redis host",
    ),
    "commit.abandoned": Event(
        _CRITICAL,
        "the process had to end before Redis confirmed a token response; `journaled` says whether it is on disk",
        "journaled: start the broker on the same `data_dir`, and it commits the response then; else: log in again",
    ),
    "commit.delayed": Event(
        _WARNING,
        "Redis does not confirm a token response; the broker repeats the commit until it does",
        "see whether Redis answers",
    ),
    "commit.unproved": Event(
        _WARNING,
        "Redis cannot prove that commits are on its disk (`why`)",
        "set `appendonly yes`, and use Redis 7.2 or newer",
    ),
    "connections.full": Event(
        _WARNING,
        "there are `open` connections of `limit` allowed ones: those that showed no key are closed first for new ones",
        "find out who opens so many: set `http.max_connections_per_peer`, or raise `http.max_connections` and the "
        "limit of open files",
    ),
    "grant.given_back": Event(
        _WARNING,
        "a grant was replaced or deleted while a token request for it was in flight; the broker revoked what came back",
    ),
    "grant.parked": Event(
        _ERROR,
        "the broker stops refreshing a grant until a person acts: it is dead, rejected, or sealed with a missing key",
        "`token-broker explain GRANT`",
    ),
    "grant.postponed": Event(
        _WARNING,
        "a token request brought no token (`outcome`, `code`); the next one follows in `next_in` seconds",
        "if it happens repeatedly: `token-broker explain GRANT`",
    ),
    "grant.reauthorized": Event(_INFO, "a person logged in"),
    "grant.refreshed": Event(_INFO, "the broker stored and published a new token"),
    "grant.restored": Event(
        _WARNING,
        "Redis had lost the last state of a grant, and the broker restored it",
        "find out why Redis lost data",
    ),
    "grant.revoked": Event(_INFO, "a grant was logged out; `revoked` says whether the provider confirmed it"),
    "grant.tampered": Event(
        _ERROR,
        "what Redis holds of a grant was altered (`detail`): it is neither served nor sent",
        "find out who writes Redis, then log in again",
    ),
    "grant.unchanged": Event(
        _WARNING,
        "the provider returned the same access token; the next request follows at half of the life that is left",
    ),
    "grant.unreadable": Event(
        _ERROR, "no key in `sealing.keys_file` opens a grant", "put the old key back, below the new one"
    ),
    "grant.unusable": Event(
        _WARNING,
        "a token response had no usable access token (`detail`); the broker stored its refresh token",
        "if it happens repeatedly: ask the provider",
    ),
    "journal.adopted": Event(_INFO, "the broker took over the journal of a broker that has ended"),
    "journal.failed": Event(
        _ERROR,
        "the broker cannot write the journal (`error`); it refreshes only grants without a valid token",
        "free space in `data_dir`, or repair its disk",
    ),
    "hook.failed": Event(
        _ERROR,
        "`sink`: the command or signal after a change failed (`error`); the file itself is good",
        "correct the command or the pid file",
    ),
    "hook.run": Event(_INFO, "`sink`: the command after a change succeeded"),
    "hook.signalled": Event(_INFO, "`sink`: the signal after a change was sent"),
    "index.built": Event(
        _INFO, "every grant of a store that a version before wrote is in the index of tokens' ends: counts are complete"
    ),
    "journal.off": Event(
        _WARNING, "`refresh.journal` is false: the broker cannot restore what Redis loses", "set it to true"
    ),
    "grants.lost": Event(
        _ERROR,
        "Redis lost the data of `count` grants, and no journal restores them; `grant_ids` names some",
        "log in again, or `token-broker logout` them; find out why Redis lost data (`maxmemory-policy noeviction`)",
    ),
    "journal.recovered": Event(_INFO, "the broker can write the journal again"),
    "journal.replayed": Event(
        _INFO, "the broker sent Redis the journal, since Redis may have lost some of it; counts by what Redis did"
    ),
    "journal.unreadable": Event(_ERROR, "a journal is sealed with a missing key", "put the old key back"),
    "leases.abandoned": Event(
        _WARNING,
        "a broker was killed while `count` token requests were in flight; their outcomes are unknown",
    ),
    "log.lost": Event(
        _WARNING,
        "`lines` lines of the log were lost: nobody read them, or the disk was full",
        "look at what reads the log",
    ),
    "login.account_replaced": Event(_WARNING, "a person decided that a login of another account replaces the grant"),
    "login.account_unknown": Event(
        _WARNING,
        "a login succeeded, but the provider's account endpoint did not say whose it is (`detail`)",
        "check `account_endpoint` and `account_member`, and that the scope allows the call",
    ),
    "login.confirmed": Event(_INFO, "a person confirmed a login on its page"),
    "login.dropped": Event(
        _INFO,
        "nobody decided about a login of another account, or confirmed one, in time; its tokens were revoked "
        "(`result`), unless that had ended another grant of the same account",
    ),
    "login.failed": Event(_WARNING, "a login failed (`error`)", "log in again"),
    "login.other_account": Event(
        _WARNING,
        "a login brought another account than the grant's, and replaced nothing",
        "log in with the grant's account; to replace it, press the button on the page or use `login --replace-account`",
    ),
    "login.unconfirmed": Event(
        _INFO,
        "nothing is recorded until a person confirms the login on its page: `confirm_login`, or no state came back",
    ),
    "login.unrecorded": Event(
        _WARNING,
        "a login succeeded, but its end could not be recorded; `token-broker login` may report another result",
    ),
    "notice.failed": Event(
        _WARNING,
        "the receiver did not accept a notice (`error`); the next try follows in `next_in` seconds",
        "`token-broker notify test`",
    ),
    "notice.sent": Event(_INFO, "a receiver accepted a notice; `grants` counts them where it is of several"),
    "provider.missing": Event(
        _WARNING,
        "the settings have no `[providers.NAME]` for `grants` grants: nobody refreshes them, and they wait",
        "put the table back and reload, log them in at another provider, or delete them",
    ),
    "provider.suspended": Event(
        _ERROR,
        "the provider refused several grants in a row, so the broker only probes it "
        "(a refused registration is logged as `grant.postponed` with outcome `registration`)",
        "`token-broker explain GRANT`",
    ),
    "proxy.ignored": Event(
        _WARNING,
        "the environment names an HTTP proxy (`variables`), and no setting says whether to use it: it is not used",
        'set `outgoing.proxy = "environment"`, or `"none"`',
    ),
    "request.failed": Event(
        _ERROR, "a bug in token-broker showed while it answered a request", "report it together with the traceback"
    ),
    "settings.not_reloaded": Event(
        _ERROR,
        "SIGHUP or `token-broker reload` found invalid settings; nothing was changed",
        "correct what `findings` lists, and reload again",
    ),
    "settings.reloaded": Event(
        _INFO,
        "the broker read its settings again, and took up providers, callers, log level and format; "
        "`changed` has the keys with a new value",
    ),
    "settings.restart_needed": Event(
        _WARNING,
        "settings (`keys`) differ from those that the broker runs with, and it cannot take them up",
        "restart the broker",
    ),
    "sink.expired": Event(
        _WARNING,
        "`sink`: the token in a file expired and there is no other; `kept` says whether the file stays",
        "see the log of the broker",
    ),
    "sink.not_written": Event(_ERROR, "`sink`: a file cannot be written (`error`)", "correct what `error` says"),
    "sink.reauthorization_required": Event(
        _ERROR, "`sink`: a grant is dead and has no valid token", "`token-broker login GRANT --provider P`"
    ),
    "sink.recovered": Event(_INFO, "`sink`: a file is kept current again"),
    "sink.waiting": Event(
        _ERROR,
        "`sink`: the broker or a token is unavailable for now (`error`); the file stays",
        "correct what `error` says; `sink` keeps trying",
    ),
    "sink.written": Event(_INFO, "`sink`: a file has a new token"),
    "status_page.ready": Event(
        _INFO, "the status page is served at `url`; `sign_in` says which file or caller has the key, and never the key"
    ),
    "store.damaged": Event(
        _ERROR,
        "`count` keys in Redis held what no broker writes there; `keys` names some. `due` and `leased` stay so, "
        "and stop their provider; `parked` too, and nothing is parked there; others are written anew",
        "find out who writes Redis; restore a damaged schedule from a backup, or remove the key, then "
        "`token-broker retry` each grant of the provider",
    ),
    "store.found": Event(_INFO, "Redis answers again"),
    "store.located": Event(_INFO, "Sentinel or Cluster named the primary, or another one than before"),
    "store.lost": Event(
        _ERROR,
        "Redis does not answer; the broker serves valid tokens from memory",
        "the `hint` says what helps against this `error`",
    ),
    "store.waiting": Event(
        _ERROR, "Redis has not answered since the broker started", "the `hint` says what helps against this `error`"
    ),
    "subscription.lost": Event(
        _WARNING,
        "there is no subscription to other brokers' changes; until there is, the broker reads again all it has in "
        "memory every few seconds",
        "if it lasts, let Redis's user hear the broker's channels: `token-broker check --online` names them",
    ),
}
"""By name."""
