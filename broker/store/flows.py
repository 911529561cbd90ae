"""Pending logins: the only keys that expire. Sealed, since a flow holds a PKCE verifier."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from broker.secret import CannotOpen, Sealer
from broker.store import scripts

if TYPE_CHECKING:
    from broker.store.primary import Primary
    from broker.store.scripts import Keys

LIFE_S = 600
"""How long a login may take, in seconds."""


@dataclass(frozen=True, slots=True)
class Flow:
    """One pending login.

    A *ticket* is what `login_url` names: it opens again and again. A *state* is one authorization request: it is
    used once. Both are kept by the same names under different keys.
    """

    kind: Literal["ticket", "state"]
    grant_id: str
    provider: str
    ticket: str
    code_verifier: str = ""
    cookie_digest: str = ""
    """SHA-256 of the browser's cookie; empty: for `login/complete` alone."""
    started_at: int = 0
    status: Literal["pending", "working", "completed", "failed"] = "pending"
    error: str = ""
    error_description: str = ""


class Flows:
    """Keeps flows by name (a ticket, a state) for ten minutes."""

    def __init__(self, primary: Primary, keys: Keys, sealer: Sealer) -> None:
        self._primary = primary
        self._keys = keys
        self._sealer = sealer

    def _sealed(self, name: str, flow: Flow) -> bytes:
        return self._sealer.seal(json.dumps(asdict(flow)), "flow", name)

    def _opened(self, name: str, sealed: bytes | None) -> Flow | None:
        if sealed is None:
            return None
        try:
            return Flow(**json.loads(self._sealer.open(sealed, "flow", name)))
        except (CannotOpen, TypeError, ValueError):
            return None  # of another version, or sealed with a key that is gone: as good as expired

    async def put(self, name: str, flow: Flow) -> None:
        """Keep *flow* under *name* for ten minutes from now."""
        await self._record(name, flow, LIFE_S)

    async def get(self, name: str) -> Flow | None:
        """The flow of that name, if it has not expired."""
        return self._opened(name, await self._primary.call("GET", self._keys.flow(name)))

    async def update(self, name: str, flow: Flow) -> Flow | None:
        """Replace a flow that is still there, keeping its life; gives the one before, so that one caller sees it."""
        return self._opened(name, await self._record(name, flow))

    async def _record(self, name: str, flow: Flow, life_s: int | None = None) -> bytes | None:
        script = scripts.RECORD_LOGIN
        args = script.args(sealed=self._sealed(name, flow), life_s="" if life_s is None else life_s)
        before: bytes | None = await self._primary.run(script, script.keys(flow=self._keys.flow(name)), args)
        return before
