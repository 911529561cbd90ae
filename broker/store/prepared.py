"""An answer as it will be stored: the fields of its grant's hash, and its record for the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.model import Commit, slotted
from broker.store.limits import ending_fields

if TYPE_CHECKING:
    from broker.store.grants import Grants
    from broker.store.redis.connections import Argument


@slotted
class PreparedCommit:
    """An answer as it will be stored: prepared once (`Registry.prepare`), for the journal and for Redis."""

    commit: Commit
    fields: list[Argument]
    """Of the grant's hash, each with its value; tokens are sealed."""
    record: str
    """For the journal: all that `Registry.restore` needs."""


def commit_fields(grants: Grants, commit: Commit) -> list[Argument]:
    """Return what an answer brought, as fields of its grant's hash, each with its value."""
    fields: list[Argument] = ["answered_at", commit.answered_at, "last_outcome", commit.outcome]
    fields += ["last_detail", commit.detail or "", "last_at", commit.answered_at]
    if commit.failures:
        fields += ["failures", commit.failures]
        if commit.claim.recovering:
            fields += ["recovering", commit.claim.generation]
    if commit.token is not None:
        fields += grants.token_fields(commit.token)
    if commit.refresh_token is not None:
        fields += grants.sealed_refresh_token(
            commit.claim.grant_id,
            commit.refresh_token,
            provider=commit.claim.provider,
            granted_at=commit.claim.granted_at,
            scope=commit.token.scope if commit.token else commit.claim.scope,
        )
    return fields + ending_fields(commit.ending)
