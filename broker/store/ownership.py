"""Account, owner and label of a grant, as fields of its hash in Redis. The account is sealed.

Knows nothing of how a grant is stored otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.model.account import Ownership, parse_account
from broker.secret import CannotOpen
from broker.store.binding import Binding
from broker.store.fields import maybe_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.secret import Sealer
    from broker.store.redis.connections import Argument
    from broker.store.redis.primary import Primary
    from broker.store.scripts import Keys

OWNERSHIP_FIELDS = ("account", "owner", "label")
_AT_ONCE = 500
"""Grants that one trip reads."""


def read(binding: Binding, grant_id: str, granted_at: int, raw: Mapping[str, bytes | None]) -> Ownership:
    """Return whose a grant is; an account that no key opens, or that belongs to another login, is not known.

    Args:
        binding: Opens the account.
        grant_id: Of the grant.
        granted_at: When a person granted it, epoch ms.
        raw: Its fields, `provider` among them.
    """
    account = None
    if raw["account"]:
        try:
            provider = (raw["provider"] or b"").decode()
            account = parse_account(binding.open(grant_id, "account", raw["account"], provider)[0].reveal(), granted_at)
        except CannotOpen:
            pass
    owner, label = (maybe_text(raw[name] or None) for name in ("owner", "label"))
    return Ownership(account, owner, label)


def fields(binding: Binding, grant_id: str, granted_at: int, whose: Ownership, provider: str) -> list[Argument]:
    """Return what is known of whose a grant is, as fields of its hash, each with its value."""
    found: list[Argument] = []
    if whose.account is not None:
        found += ["account", binding.seal(grant_id, "account", whose.account.serialize(granted_at), provider)]
    for name, text in (("owner", whose.owner), ("label", whose.label)):
        if text is not None:
            found += [name, text]
    return found


def claimed(account: bytes, owner: bytes, label: bytes) -> tuple[str | bytes, ...]:
    """Return the fields that a claim brought, each with its value, as `Claim.ownership` has them."""
    texts = (("owner", owner), ("label", label))
    sealed: tuple[str | bytes, ...] = ("account", account) if account else ()
    return (*sealed, *(item for name, text in texts if text for item in (name, text.decode("utf-8", "replace"))))


async def is_held(primary: Primary, keys: Keys, sealer: Sealer, grant_ids: Sequence[str], account_id: str) -> bool:
    """Return whether one of these grants is known to be of an account.

    Args:
        primary: The connection to Redis.
        keys: Names of keys.
        sealer: Opens the accounts.
        grant_ids: The grants to read, all of one provider.
        account_id: Which account.
    """
    binding, fields_read = Binding(sealer, lambda: primary.store_id), ("account", "granted_at", "provider")
    for start in range(0, len(grant_ids), _AT_ONCE):
        batch = grant_ids[start : start + _AT_ONCE]
        rows = await primary.pipeline_each([("HMGET", keys.grant(name), *fields_read) for name in batch])
        for name, row in zip(batch, rows, strict=True):
            account, granted_at, provider = (None, None, None) if isinstance(row, Exception) else row
            raw = {"account": account, "owner": None, "label": None, "provider": provider}
            try:
                whose = read(binding, name, int(granted_at or 0), raw) if account else None
            except ValueError:  # damaged: it is of no account that anybody could know
                continue
            if whose is not None and whose.account is not None and whose.account.id == account_id:
                return True
    return False
