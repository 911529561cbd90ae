"""Log out: revoke a grant at the provider, then forget it, and say which of the two happened."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from broker.errors import Conflict, UnknownGrant
from broker.model import GRANT_ID
from broker.providers import revoke
from broker.token_answer import message

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.journal.journal import Journal
    from broker.model import Grant
    from broker.providers import Endpoint
    from broker.read import Cache
    from broker.store import Store

log = structlog.get_logger()
_HOLD_PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class LoggedOut:
    """What a logout did. The grant is forgotten here in any case."""

    revoked: bool
    detail: str


class Logout:
    """Ends grants."""

    def __init__(
        self,
        store: Store,
        endpoints: Mapping[str, Endpoint],
        journal: Journal | None,
        cache: Cache,
        *,
        request_timeout: float,
        lease_ms: int,
    ) -> None:
        self._store = store
        self._endpoints = endpoints
        self._journal = journal
        self._cache = cache
        self._request_timeout = request_timeout
        self._lease_ms = lease_ms

    def needs_live_token(self, grant: Grant) -> bool:
        """Return whether the provider revokes only with an access token that lives (CameraManager's logout)."""
        endpoint = self._endpoints.get(grant.provider)
        return endpoint is not None and endpoint.dialect.logout_endpoint is not None

    async def log_out(self, grant_id: str) -> LoggedOut:
        """Revoke and forget a grant. Its lease is held meanwhile, so no refresh replaces what is being revoked.

        Raises:
            UnknownGrant: there is no such grant.
            Conflict: a refresh takes too long, or somebody logged the grant in again meanwhile.
            StoreUnavailable: Redis does not answer.
        """
        if (damaged := await self._forget_damaged(grant_id)) is not None:
            return LoggedOut(revoked=False, detail=damaged)
        grant = await self._hold(grant_id)
        revoked, detail = await self._revoke(grant)
        await self._forget(grant, detail)
        self._cache.evict(grant_id)
        log.info("grant.revoked", grant_id=grant_id, provider=grant.provider, revoked=revoked, detail=detail)
        return LoggedOut(revoked, detail)

    async def _forget_damaged(self, grant_id: str) -> str | None:
        """Forget a grant of which nobody knows whose it is, as its key holds no hash; None: it is not one of those."""
        grant = await self._store.grants.get(grant_id)
        if grant is None or GRANT_ID.fullmatch(grant.provider):
            return None
        detail = "its data in Redis is damaged, so there was nothing to revoke: the grant was forgotten here only"
        await self._forget(replace(grant, generation=self._store.clock()), detail)
        self._cache.evict(grant_id)
        log.info("grant.revoked", grant_id=grant_id, provider="", revoked=False, detail=detail)
        return detail

    async def forget_lost(self, grant_id: str) -> str | None:
        """Forget a grant whose data Redis lost, so that no journal brings it back.

        Returns:
            What that means, in words; None: it is not one of those.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        store = self._store
        if not await store.lost.drop(grant_id):
            return None
        now = store.clock()
        await store.registry.forget(grant_id, message("revoked", grant_id, "", now), up_to=now, forgotten_at=now)
        self._cache.evict(grant_id)
        detail = "Redis had lost its data: the grant was forgotten here only"
        log.info("grant.revoked", grant_id=grant_id, provider="", revoked=False, detail=detail)
        return detail

    async def _forget(self, grant: Grant, detail: str) -> None:
        """Forget what was revoked, and only that; in the journal too, so that it does not come back from there."""
        store, grant_id = self._store, grant.grant_id
        revoked = message("revoked", grant_id, grant.provider, grant.generation)
        forgotten = await store.registry.forget(grant_id, revoked, up_to=grant.generation)
        if not forgotten and await store.registry.generation(grant_id) is not None:
            raise Conflict(f"somebody logged this grant in anew meanwhile, and that login stands; before it: {detail}")
        if self._journal is not None:
            record = store.registry.forget_record(grant_id, grant.generation)
            (await self._journal.append(grant_id, record)).mark_recorded()

    async def _hold(self, grant_id: str) -> Grant:
        ends = time.monotonic() + self._request_timeout + 1
        while True:
            grant = await self._store.grants.get(grant_id)
            held = await self._store.schedule.hold(grant_id, grant.provider, self._lease_ms) if grant else "gone"
            if grant is None or held == "gone":
                raise UnknownGrant("no such grant")
            if held == "held":
                # What a refresh committed just before the hold is what must be revoked.
                return await self._store.grants.get(grant_id) or grant
            if time.monotonic() > ends:
                raise Conflict("a refresh of this grant is under way: try again in a few seconds", retry_after=5)
            await asyncio.sleep(_HOLD_PAUSE)

    async def _revoke(self, grant: Grant) -> tuple[bool, str]:
        endpoint = self._endpoints.get(grant.provider)
        if endpoint is None:
            return False, f"provider {grant.provider!r} is no longer in the settings: the grant was forgotten here only"
        held = await self._store.grants.refresh_token(grant.grant_id)
        if held is None:
            return False, "none of the sealing keys opens its refresh token: the grant was forgotten here only"
        living = grant.token is not None and grant.token.remaining_ms(self._store.clock()) > 0
        if self.needs_live_token(grant) and not living:
            return False, (
                "there is no live access token, which the provider's logout needs: the grant was forgotten here only"
            )
        revocation = await revoke(
            endpoint,
            access_token=grant.token.access_token if grant.token else None,
            refresh_token=held[1],
            timeout=self._request_timeout,
        )
        if revocation.result == "revoked":
            return True, "revoked at the provider and forgotten here"
        why = (
            "it has no revocation endpoint"
            if revocation.result == "not_supported"
            else f"{revocation.code} {revocation.detail}".strip()
        )
        return False, f"the provider did not revoke ({why}): the grant was forgotten here only"
