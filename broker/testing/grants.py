"""The grants of a fake broker: what they hold, and what a test does to them, from any thread."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import threading


class FakeGrant:
    """A grant whose token is made up. Every method takes effect at once, and wakes waiting requests."""

    def __init__(self, grant_id: str, changed: threading.Condition, lifetime: float, extra: dict[str, Any]) -> None:
        self.id = grant_id
        self.lifetime = lifetime
        """Seconds that the next tokens are valid."""
        self.extra = extra
        """Further members of a token response."""
        self.readable = True
        """Whether the caller has the right `read`; without it 403."""
        self.refreshable = True
        """Whether the caller has the right `refresh`; without it 403 for `min_ttl` and reports."""
        self.provider_up = True
        """False: no refresh succeeds, as with a provider that is down."""
        self.min_interval = 0.0
        """Seconds after a refresh in which a report gets 429, `too_fresh`; a real broker's default is 60."""
        self.dead = False
        self.refreshes = 0
        """How many refreshes were requested and made."""
        self._changed = changed
        self.generation = 0
        self._new_token()

    @property
    def token(self) -> str:
        """The current access token."""
        return self._token

    def rotate(self, *, lifetime: float | None = None) -> str:
        """Make a new token, as after a planned refresh, and return it. *lifetime* (seconds) holds from now on."""
        with self._changed:
            if lifetime is not None:
                self.lifetime = lifetime
            self._new_token()
            self._changed.notify_all()
            return self._token

    def expire(self) -> None:
        """Expire the current token. The next read has a new one made, if the provider is up."""
        with self._changed:
            self._ends = 0.0
            self._changed.notify_all()

    def kill(self) -> None:
        """Have the provider end the grant: its token expires, and a person must log in again."""
        with self._changed:
            self.dead, self._ends = True, 0.0
            self._changed.notify_all()

    def log_in(self) -> str:
        """Log in again: the grant works, with a new token, which is returned."""
        self.dead = False
        return self.rotate()

    def remaining(self) -> float:
        """Return the seconds until the current token expires, negative when it has expired."""
        return self._ends - time.time()

    def answer(self) -> dict[str, Any]:
        """Return the token response at this moment."""
        return {
            **self.extra,
            "access_token": self._token,
            "token_type": "bearer",
            "expires_in": max(0, int(self.remaining())),
            "expires_at": int(self._ends),
            "scope": "read",
            "grant_id": self.id,
            "generation": self.generation,
            "provider": "fake",
        }

    def refresh(self) -> bool:
        """Make a new token if possible; return whether there is one."""
        if self.dead or not self.provider_up:
            return False
        self.refreshes += 1
        self.rotate()
        return True

    def too_fresh(self) -> float:
        """Return the seconds for which a report is of no use."""
        return self._made_at + self.min_interval - time.time()

    def _new_token(self) -> None:
        self._made_at = time.time()
        self._ends = self._made_at + self.lifetime
        self.generation = max(self.generation + 1, int(self._made_at * 1000))
        self._token = f"fake-{secrets.token_urlsafe(24)}"
