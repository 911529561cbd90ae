"""What a sealed value of a grant is bound to: facts that are sealed with it.

So whoever writes Redis cannot alter where a refresh token is sent, or make an access token count as valid for longer.
The hash of a grant holds the same facts in the clear, for the scripts. Where both differ, the shorter life counts. A
value that belongs to another provider or store is refused. Knows nothing of Redis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.secret import Sealer, Secret, Tampered
from broker.token_answer import json_text, json_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Facts = dict[str, Any]
"""Of a value in the bound form: `store` and `provider`; of a refresh token also `granted_at` and `scope`; of an access
token and its extra members `generation`, `issued_at`, `expires_at`, `token_type` and `scope` (times are epoch ms)."""


class Binding:
    """Seals and opens the fields of grants. *store_id* returns the id of the store that they belong to."""

    def __init__(self, sealer: Sealer, store_id: Callable[[], str]) -> None:
        self._sealer = sealer
        self._store_id = store_id

    def seal(self, grant_id: str, field: str, text: str, provider: str, **facts: object) -> bytes:
        """Seal the text of a field of a grant with the *provider* that it is of, and further *facts*."""
        return self.seal_all(grant_id, {field: text}, provider, **facts)[0]

    def seal_all(self, grant_id: str, texts: Mapping[str, str], provider: str, **facts: object) -> list[bytes]:
        """Seal the texts of several fields, by name, likewise with the same facts; return them in this order."""
        line = json_text({"store": self._store_id(), "provider": provider, **facts}) if self._sealer.binds else ""
        return [self._sealer.seal(text, grant_id, field, facts=line) for field, text in texts.items()]

    def open(self, grant_id: str, field: str, sealed: bytes, provider: str) -> tuple[Secret, Facts]:
        """Return the text of a field of a grant, and the facts that are sealed with it; none in the plain form.

        Args:
            grant_id: Of the grant.
            field: Its name.
            sealed: Its value.
            provider: Whose grant it is, as Redis has it.

        Raises:
            CannotOpen: No key in the key file opens it.
            Tampered: It belongs to another provider or store than *provider* and this one.
        """
        text, line = self._sealer.open_with_facts(sealed, grant_id, field)
        if not line:
            return Secret(text), {}
        facts: Facts = json_value(line.encode())
        if facts["provider"] != provider:
            raise Tampered(f"it is of provider {facts['provider']}, and stands in a grant of {provider}")
        if (store := self._store_id()) and facts["store"] != store:
            raise Tampered(f"it is of store {facts['store']}, and stands in store {store}")
        return Secret(text), facts

    def resealed(
        self, grant_id: str, field: str, sealed: bytes, known: Mapping[str, Any], *, trusted: bool = False
    ) -> bytes:
        """Return a field of a grant sealed anew: with the first key, and bound where values are to be bound.

        Args:
            grant_id: Of the grant.
            field: Its name.
            sealed: Its value.
            known: The facts that stand beside it, for a value in the plain form: `provider` and others.
            trusted: It does not come from Redis, but from a journal, which is sealed as a whole.

        Raises:
            CannotOpen: No key in the key file opens it.
        """
        if self._sealer.is_current(sealed):
            return sealed
        text, line = self._sealer.open_with_facts(sealed, grant_id, field, trusted=trusted)
        if line:
            return self._sealer.seal(text, grant_id, field, facts=line)
        facts = {name: _value(known.get(name), name) for name in _BOUND[field]}
        return self.seal(grant_id, field, text, str(_value(known.get("provider"))), **facts)


_OF_TOKEN = ("generation", "issued_at", "expires_at", "token_type", "scope")
_BOUND: dict[str, tuple[str, ...]] = {
    "refresh_token": ("granted_at", "scope"),
    "access_token": _OF_TOKEN,
    "extra": _OF_TOKEN,
    "account": (),
}
"""The facts of each sealed field, but for store and provider."""
_TEXTS = frozenset({"token_type", "scope", ""})


def _value(found: Any, name: str = "") -> str | int | None:
    """Return a fact as it is sealed, of a hash in Redis or of a journal's record; None: it is not known."""
    if found is None:
        return None
    text = found.decode() if isinstance(found, bytes) else str(found)
    return text if name in _TEXTS else int(text)
