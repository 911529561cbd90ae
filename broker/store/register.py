"""What the script `register` is called with, for a login or an import, and what it answers. Sends nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from broker.model import slotted
from broker.model.account import NOBODY, Ownership
from broker.store import scripts
from broker.store.grants import TOKEN_FIELDS
from broker.store.limits import ENDING_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.model import Grant, Token
    from broker.secret import Secret
    from broker.store.grants import Grants
    from broker.store.redis.connections import Argument


@dataclass(frozen=True, slots=True)
class Registered:
    """The result of a login or an import; `holder` is the grant that holds the same refresh token (held).

    Outdated: this refresh token was imported for this grant before, and another since.
    """

    status: Literal["created", "replaced", "unchanged", "outdated", "leased", "held"]
    generation: int
    holder: str | None = None


@slotted
class Import:
    """A refresh token that somebody holds already, to be stored as a grant."""

    grant_id: str
    provider: str
    refresh_token: Secret
    scope: str | None
    due_at: int
    """When the grant is due, epoch ms."""
    ownership: Ownership = NOBODY
    """Owner and label, where they are given."""


@slotted
class RegisterCall:
    """One call of the script."""

    keys: Sequence[str]
    args: Sequence[Argument]
    generation: int
    """Of the grant, where the script writes it."""

    def parse(self, reply: Any) -> Registered | None:
        """Return what the script decided; None where the grant has changed since it was read."""
        status, detail = reply
        return None if status == b"moved" else Registered(status.decode(), self.generation, detail.decode() or None)


def import_call(keys: scripts.Keys, grants: Grants, imported: Import, held: Grant | None, now: int) -> RegisterCall:
    """Make the call for an import: a new generation without an access token.

    Args:
        keys: Names of keys.
        grants: Seals the refresh token.
        imported: What to store.
        held: What the store holds under the grant's id.
        now: Epoch ms.
    """
    grant_id, provider = imported.grant_id, imported.provider
    generation = max(now, (held.generation if held else 0) + 1)
    fields: list[Argument] = ["generation", generation, "granted_at", now]
    # An import without a scope keeps the scope of the access token that it leaves in place.
    kept = held.token if held is not None and held.provider == provider else None
    scope = kept.scope if imported.scope is None and kept else imported.scope
    if scope is not None:
        fields += ["scope", scope]
    fields += grants.sealed_refresh_token(
        grant_id, imported.refresh_token, provider=provider, granted_at=now, scope=scope
    )
    fields += grants.ownership_fields(grant_id, generation, imported.ownership)
    return _call(
        keys,
        grant_id,
        provider,
        fields,
        fingerprint=imported.refresh_token.fingerprint(),
        mode="import",
        generation=generation,
        seen=(held.provider, held.generation) if held else None,
        due_at=imported.due_at,
        keeps_token=kept is not None,
    )


def login_call(
    keys: scripts.Keys,
    token: Token,
    fields: Sequence[Argument],
    *,
    fingerprint: str,
    seen: tuple[str, int] | None,
    message: str,
) -> RegisterCall:
    """Make the call for a login.

    Args:
        keys: Names of keys.
        token: The access token.
        fields: Of the grant, each with its value.
        fingerprint: Of the refresh token.
        seen: Provider and generation that the store held under the grant's id.
        message: To publish on the grant's channel.
    """
    return _call(
        keys,
        token.grant_id,
        token.provider,
        fields,
        fingerprint=fingerprint,
        mode="login",
        generation=token.generation,
        seen=seen,
        due_at=token.refresh_at,
        message=message,
    )


def _call(
    keys: scripts.Keys,
    grant_id: str,
    provider: str,
    fields: Sequence[Argument],
    *,
    fingerprint: str,
    mode: Literal["login", "import"],
    generation: int,
    seen: tuple[str, int] | None,
    due_at: int,
    message: str = "",
    keeps_token: bool = False,
) -> RegisterCall:
    script = scripts.REGISTER if mode == "login" else scripts.IMPORT
    was_provider, was_generation = seen or ("", "")
    # An import at the same provider keeps the access token: it lives, and a reader may go on with it.
    drop: Iterable[str] = ("account",) if keeps_token else (*TOKEN_FIELDS, *ENDING_FIELDS, "account")
    return RegisterCall(
        script.keys(
            grant=keys.grant(grant_id),
            due=keys.ids("due", provider),
            **keys.index(provider),
            **keys.sets(was_provider or provider, prefix="was_"),
            **keys.index(was_provider or provider, prefix="was_"),
            held_by=keys.held,
            meta=keys.meta,
            attempts=keys.attempts_of(grant_id),
        ),
        script.args(
            ["refresh_at", due_at, *fields],
            grant_id=grant_id,
            mode=mode,
            was_provider=was_provider,
            was_generation=was_generation,
            generation=generation,
            due_at=due_at,
            fingerprint=fingerprint,
            channel=keys.channel(grant_id),
            message=message,
            dropped_fields=" ".join(drop),
            provider=provider,
        ),
        generation,
    )
