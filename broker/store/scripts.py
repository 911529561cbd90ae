"""The Lua scripts and the names of keys and channels, each in one place."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.model import State


def _read(name: str) -> str:
    return resources.files("broker.store").joinpath("lua", f"{name}.lua").read_text("utf-8")


_PRELUDE = _read("prelude")


class Script:
    """One script of `lua/`, by its verb. Content-addressed, so replicas of two versions never mix them up."""

    def __init__(self, verb: str, *, allow_oom: bool = False) -> None:
        text = _read(verb).replace("\n", f"\n{_PRELUDE}", 1)
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
COUNT_OUTCOMES = Script("count_outcomes")
ENQUEUE_SUBJECTS = Script("enqueue_subjects")
LEASE_SUBJECTS = Script("lease_subjects")
FINISH_SUBJECT = Script("finish_subject")
RESEAL = Script("reseal")
RECORD_LOGIN = Script("record_login")
NEEDING_ATTENTION = Script("needing_attention")


class Keys:
    """Key and channel names. `{0}` is a hash tag: every key in one slot, whatever the topology."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.all = f"{namespace}:{{0}}:"
        """What every key begins with."""
        self.grants = f"{self.all}grant:"
        """What every grant's key begins with."""
        self.attempts = f"{self.all}attempts:"
        """What the key of every grant's last attempts begins with."""
        self.flows = f"{self.all}flow:"
        """What the key of every pending login begins with."""
        self.meta = f"{self.all}meta"
        """Hash: schema version, store id, sealed key canary, provider names."""
        self.held = f"{self.all}held"
        """Hash: fingerprint of an imported refresh token to the grant that holds it."""
        self.epoch = f"{self.all}epoch"
        """Hash: which run of the server we know, and until when nobody claims after another one."""
        self.forgotten = f"{self.all}forgotten"
        """Sorted set of grant ids by when they were forgotten: what no journal may bring back."""

    def grant(self, grant_id: str) -> str:
        """Hash: one field per fact of a grant."""
        return self.grants + grant_id

    def attempts_of(self, grant_id: str) -> str:
        """List: the last attempts of a grant, oldest first."""
        return self.attempts + grant_id

    def ids(self, state: State, provider: str) -> str:
        """Sorted set of grant ids: due by due time, leased by end of lease, parked by since when."""
        return f"{self.all}{state}:{provider}"

    def provider(self, name: str) -> str:
        """Hash: what is known of a provider's health."""
        return f"{self.all}provider:{name}"

    def history(self, name: str) -> str:
        """Hash: what the token requests of a provider came to, two counters a minute, for an hour."""
        return f"{self.all}history:{name}"

    def flow(self, name: str) -> str:
        """A pending login; the only keys that expire."""
        return self.flows + name

    def subjects(self, way: str) -> str:
        """Sorted set: what one way of telling people has to look at, by when."""
        return f"{self.all}subjects:{way}"

    def told(self, way: str) -> str:
        """Hash: of each of its subjects, what people were told that way."""
        return f"{self.all}told:{way}"

    def channel(self, grant_id: str) -> str:
        """Pub/sub channel of one grant."""
        return f"{self.namespace}:tokens:{grant_id}"
