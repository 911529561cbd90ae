"""The Lua scripts, the names of their keys and arguments, and the names of all keys and channels.

Knows nothing of connections, nor of what the scripts are run for.

A script begins with a header that names its KEYS and ARGV in order; a name that ends in `...` stands for all items that
follow. The caller names each value (`COMMIT.keys(grant=...)`), and `Order` puts them into the script's order.
"""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from broker.model import State
    from broker.store.redis.connections import Argument

_HEADER = re.compile(r"^-- (KEYS|ARGV): (.+)$", re.MULTILINE)
_Value = TypeVar("_Value")
_STATES: tuple[State, ...] = ("due", "leased", "parked")


def _read(name: str) -> str:
    return resources.files("broker.store").joinpath("lua", f"{name}.lua").read_text("utf-8")


_PRELUDE = _read("prelude")


class Order(Generic[_Value]):
    """The order in which a script takes its keys, or its arguments."""

    def __init__(self, text: str, kind: Literal["KEYS", "ARGV"]) -> None:
        names = [name for found in _HEADER.finditer(text) if found[1] == kind for name in found[2].split()]
        self.rest = names.pop().removesuffix("...") if names[-1].endswith("...") else ""
        """The name of all items behind the others; empty where there are none."""
        self.names = () if names == ["none"] else tuple(names)
        self._count = len(self.names)
        self._pick = _picker(self.names)

    def arrange(self, rest: Sequence[_Value] = (), /, **named: _Value) -> tuple[_Value, ...]:
        """Return the values of *named* in the script's order, and *rest* behind them.

        Costs about 0.35 us more CPU than a list written by hand, and twice that with `**Keys.sets(...)`: under 1 % of
        a commit, which calls it twice.

        Raises:
            TypeError: The script's header names other items.
        """
        if len(named) == self._count and (self.rest or not rest):
            try:
                return (*self._pick(named), *rest) if rest else self._pick(named)
            except KeyError:
                pass
        raise TypeError(f"the script takes {self.names} and {self.rest or 'no more'}, not {(*named, *rest[:1])}")


def _picker(names: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Return a function that takes the values of *names* out of a mapping."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda named: tuple(named[name] for name in names)


class Script:
    """One script of `lua/`, by its verb. Content-addressed, so replicas of two versions never mix them up."""

    def __init__(self, verb: str, *, allow_oom: bool = False) -> None:
        text = _read(verb)
        self.key_order: Order[str] = Order(text, "KEYS")
        self.arg_order: Order[Argument] = Order(text, "ARGV")
        self.keys = self.key_order.arrange
        self.args = self.arg_order.arrange
        text = text.replace("\n", f"\n{_PRELUDE}", 1)
        if allow_oom:  # the same script, for what must be kept even when memory is full
            text = text.replace("#!lua\n", "#!lua flags=allow-oom\n", 1)
        self.verb = verb
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()  # what EVALSHA goes by


CLAIM = Script("claim")
COMMIT = Script("commit")
POSTPONE = Script("postpone")
PARK = Script("park")
RETRY = Script("retry")
RESUME = Script("resume")
EXPEDITE = Script("expedite")
IMPORT = Script("register")
REGISTER = Script("register", allow_oom=True)
RELEASE = Script("release")
ABANDON = Script("abandon")
RESTORE = Script("restore")
HOLD = Script("hold")
FORGET = Script("forget")
REWIND = Script("rewind")
OBSERVE_CLOCK = Script("observe_clock")
COUNT_OUTCOMES = Script("count_outcomes")
COUNT_DAY = Script("count_day")
ENQUEUE_SUBJECTS = Script("enqueue_subjects")
LEASE_SUBJECTS = Script("lease_subjects")
FINISH_SUBJECT = Script("finish_subject")
RESEAL = Script("reseal")
ANNOTATE = Script("annotate")
NOTE = Script("note")
RECORD_LOGIN = Script("record_login")
NEEDING_ATTENTION = Script("needing_attention")
FIND_DUE = Script("find_due")
PROVIDER_STATES = Script("provider_states")
FIND_SUSPENDED = Script("find_suspended")
BEGINNINGS = Script("beginnings")
FIND_LOST = Script("find_lost")
DROP_LOST = Script("drop_lost")
SUM_ENDS = Script("sum_ends")
MERGE_ENDS = Script("merge_ends")
REINDEX = Script("reindex")
DRAIN = Script("drain")
RENAME = Script("rename")
RECEIVE = Script("receive")


class Keys:
    """Names of keys and channels. `{0}` is a hash tag: it puts every key into one slot, whatever the topology."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.all = f"{namespace}:{{0}}:"
        """The prefix of every key."""
        self.grants = f"{self.all}grant:"
        """The prefix of every grant's key."""
        self.attempts = f"{self.all}attempts:"
        """The prefix of the key of every grant's last attempts."""
        self.flows = f"{self.all}flow:"
        """The prefix of the key of every pending login."""
        self.meta = f"{self.all}meta"
        """Hash: schema version, store id, sealed key canary, provider names."""
        self.held = f"{self.all}held"
        """Hash: fingerprint of an imported refresh token to the grant that holds it."""
        self.epoch = f"{self.all}epoch"
        """Hash: which run of the server is known, and until when nobody claims after another one was noticed; and what
        is known of the steps of its clock."""
        self.forgotten = f"{self.all}forgotten"
        """Sorted set of grant ids by when they were forgotten: no journal may bring those grants back."""
        self.lost = f"{self.all}lost"
        """Hash: id of a grant whose hash is gone to where it stood in the schedule, until it is there again."""
        self.damaged = f"{self.all}damaged"
        """Hash: a key that was of another type (without the prefix) to when that was seen last, epoch ms."""

    def anchor(self, boot: str) -> str:
        """Return the key of a number that expires: how far Redis's clock is ahead of the uptime of a machine."""
        return f"{self.all}clock:{boot}"

    def grant(self, grant_id: str) -> str:
        """Return the key of a hash: one field per fact of a grant."""
        return self.grants + grant_id

    def attempts_of(self, grant_id: str) -> str:
        """Return the key of a list: the last attempts of a grant, oldest first."""
        return self.attempts + grant_id

    def ids(self, state: State, provider: str) -> str:
        """Return the key of a sorted set of grant ids: due by due time, leased by end of lease, parked by beginning."""
        return f"{self.all}{state}:{provider}"

    def sets(self, provider: str, *, prefix: str = "") -> dict[str, str]:
        """Return the keys of a provider's sets of grant ids, named as the scripts name them: *prefix* and state."""
        return {f"{prefix}{state}": self.ids(state, provider) for state in _STATES}

    def ends(self, provider: str) -> str:
        """Return the key of a sorted set: every grant of a provider by when its token ends, 0 without one."""
        return f"{self.all}ends:{provider}"

    def failing(self, provider: str) -> str:
        """Return the key of a sorted set: those of them that are parked or failed last time, by the same."""
        return f"{self.all}failing:{provider}"

    def index(self, provider: str, *, prefix: str = "") -> dict[str, str]:
        """Return the keys of both, named as the scripts name them: *prefix* and name."""
        return {f"{prefix}ends": self.ends(provider), f"{prefix}failing": self.failing(provider)}

    def provider(self, name: str) -> str:
        """Return the key of a hash: what is known of a provider's health."""
        return f"{self.all}provider:{name}"

    def history(self, name: str) -> str:
        """Return the key of a hash: outcomes of a provider's token requests, two counters a minute, for an hour."""
        return f"{self.all}history:{name}"

    def day(self, name: str) -> str:
        """Return the key of a hash: the last day of a provider, three fields for each quarter of an hour."""
        return f"{self.all}day:{name}"

    def flow(self, name: str) -> str:
        """Return the key of a pending login, which expires."""
        return self.flows + name

    def subjects(self, channel: str) -> str:
        """Return the key of a sorted set: subjects of one notification channel, by when they are due."""
        return f"{self.all}subjects:{channel}"

    def last_notices(self, channel: str) -> str:
        """Return the key of a hash: of each subject of a notification channel, the record of its last notice."""
        return f"{self.all}told:{channel}"

    def channel(self, grant_id: str) -> str:
        """Return the pub/sub channel of one grant."""
        return f"{self.namespace}:tokens:{grant_id}"
