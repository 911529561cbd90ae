"""Whose a grant is: its account at the provider, and the owner and label that people give it. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from broker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TEXT = 255
"""Characters of each member: OpenID Connect Core §2 allows a `sub` no more."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account at a provider. Only `id` says which it is; the other members may change, and help people."""

    id: str
    """`sub` of the id_token, or what the provider's account endpoint says."""
    email: str | None = None
    preferred_username: str | None = None
    name: str | None = None

    def __str__(self) -> str:
        """Return it as people read it: `jane@example.com (248289761001)`."""
        known = self.email or self.preferred_username or self.name
        return self.id if known in {None, self.id} else f"{known} ({self.id})"

    def members(self) -> dict[str, str]:
        """Return the members that are known."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def serialize(self, granted_at: int) -> str:
        """Return the form that is sealed and stored: it belongs to the login of *granted_at* (epoch ms) alone.

        A broker of a version that knows no accounts replaces a login and leaves this behind: it must not count then.
        """
        return json.dumps({"granted_at": granted_at, **self.members()})


def parse_account(text: str, granted_at: int) -> Account | None:
    """Return the account that was stored with the login of *granted_at* (epoch ms); None if it is of another login."""
    try:
        members = json.loads(text)
        if members["granted_at"] != granted_at:
            return None
        return Account(members["id"], *(members.get(name) for name in ("email", "preferred_username", "name")))
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whose a grant is. In what changes a grant, None for *owner* and *label* keeps what it has, "" removes it."""

    account: Account | None = None
    owner: str | None = None
    label: str | None = None

    def words(self) -> str:
        """Return what is known, for people; "" if nothing is."""
        parts = (("account", self.account), ("owner", self.owner), ("label", self.label))
        return ", ".join(f"{name} {value}" for name, value in parts if value)


NOBODY = Ownership()


def read_text(values: Mapping[str, object], name: str) -> str | None:
    """Return the free text *name* ("owner" or "label") of a request; None where it is missing, "" for null.

    Raises:
        InvalidRequest: it is no text, too long, or has control characters.
    """
    if name not in values:
        return None
    value = values[name]
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise InvalidRequest(
            f"{name} must be text of at most {MAX_TEXT} characters without control characters: shorten or clean it"
        )
    return value.strip()
