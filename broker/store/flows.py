"""Pending logins: the only keys that expire. They are sealed, since a flow holds a PKCE verifier.

Knows nothing of how a login goes on.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal

from broker.secret import CannotOpen, Sealer
from broker.store import scripts

if TYPE_CHECKING:
    from broker.store.redis.primary import Primary
    from broker.store.scripts import Keys

LIFE_S = 600
"""How long a login may take, in seconds."""


@dataclass(frozen=True, slots=True)
class Flow:
    """One pending login.

    A *ticket* is what `login_url` names: it may be opened again and again. A *state* is one authorization request: it
    is used once. Each is stored under its own name.
    """

    kind: Literal["ticket", "state"]
    grant_id: str
    provider: str
    ticket: str
    code_verifier: str = ""
    cookie_digest: str = ""
    """SHA-256 of the browser's cookie; empty: only `login/complete` may end this login."""
    started_at: int = 0
    status: Literal["pending", "working", "completed", "failed"] = "pending"
    error: str = ""
    error_description: str = ""
    # From here on: fields that a broker of the version before does not know. They are stored where they say something.
    replace_account: bool = False
    """Replace the grant even if it is of another account."""
    owner: str | None = None
    label: str | None = None
    held: str = ""
    """What a code exchange brought and nobody has recorded yet, as `login.held` writes it."""
    decision: Literal["", "identify", "open", "replace", "drop"] = ""
    """What becomes of it: its account is being asked for; a person decides; it is recorded; it is revoked."""
    decided_at: int = 0
    """Since when (epoch ms)."""
    undecided: str = ""
    """Of a ticket: the state that holds such an answer, for a person to decide."""
    sealed: bytes = field(default=b"", compare=False, repr=False)
    """As Redis had it when it was read; not a part of it."""


_NEW = {
    each.name: each.default
    for each in fields(Flow)
    if each.name in {"replace_account", "owner", "label", "held", "decision", "decided_at", "undecided"}
}


class Flows:
    """Keeps flows by name (a ticket, a state) for ten minutes.

    Every method raises `StoreUnavailable` when Redis does not answer.
    """

    def __init__(self, primary: Primary, keys: Keys, sealer: Sealer) -> None:
        self._primary = primary
        self._keys = keys
        self._sealer = sealer

    def _sealed(self, name: str, flow: Flow) -> bytes:
        members = {key: value for key, value in asdict(flow).items() if key not in _NEW or value != _NEW[key]}
        del members["sealed"]
        return self._sealer.seal(json.dumps(members), "flow", name, purpose="flow")

    def _opened(self, name: str, sealed: bytes | None) -> Flow | None:
        if sealed is None:
            return None
        try:
            flow = Flow(**json.loads(self._sealer.open(sealed, "flow", name, purpose="flow")))
        except (CannotOpen, TypeError, ValueError):
            return None  # of another version, or sealed with a key that was removed: the same as expired
        return replace(flow, sealed=sealed)

    async def put(self, name: str, flow: Flow, life_s: int = LIFE_S) -> None:
        """Store *flow* under *name* for ten minutes, or for *life_s* seconds."""
        await self._record(name, flow, life_s)

    async def get(self, name: str) -> Flow | None:
        """Return the flow of that name, if it has not expired."""
        return self._opened(name, await self._primary.call("GET", self._keys.flow(name)))

    async def update(self, name: str, flow: Flow) -> None:
        """Replace a flow that is still there, and keep its life."""
        await self._record(name, flow)

    async def advance(self, name: str, seen: Flow, flow: Flow) -> Flow | None:
        """Replace a flow that is still as it was *seen*, and keep its life: of several callers one does that.

        Returns:
            What was there before; *seen* itself: it was replaced.
        """
        before = await self._record(name, flow, seen=seen.sealed)
        return seen if before == seen.sealed else self._opened(name, before)

    async def _record(self, name: str, flow: Flow, life_s: int | None = None, seen: bytes = b"") -> bytes | None:
        script = scripts.RECORD_LOGIN
        args = script.args(sealed=self._sealed(name, flow), life_s="" if life_s is None else life_s, seen=seen)
        before: bytes | None = await self._primary.run(script, script.keys(flow=self._keys.flow(name)), args)
        return before
