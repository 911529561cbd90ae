"""Record what a login brought: from the answer of a code exchange to a registered grant that is served."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from broker.errors import ProviderRefused, StoreUnavailable
from broker.model import Token, usable_until
from broker.model.account import NOBODY, Ownership
from broker.providers import lifetimes
from broker.providers.offline import why_no_refresh_token
from broker.refresh import policy
from broker.secret import Secret
from broker.token_answer import token_message

if TYPE_CHECKING:
    from broker.journal.file_format import Entry
    from broker.journal.journal import Journal
    from broker.model import Ending, TokenResponse
    from broker.model.account import Account
    from broker.providers import Dialect
    from broker.read import Cache
    from broker.refresh.scheduler import Scheduler
    from broker.store import PreparedLogin, Store
    from broker.token_answer import Message

log = structlog.get_logger()
_PATIENCE = 20.0
"""Seconds for which a browser waits while Redis does not answer; after that the journal alone has the login."""
_PAUSE = 0.3
_FROZEN_MS = 30_000
"""A broker that records an answer so late was frozen, and another one may have recorded it (see `held`)."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """What a login brought."""

    grant_id: str
    provider: str
    scope: str | None
    expires_in: int
    account: Account | None = None
    warning: str | None = None


class LoginRecorder:
    """Records logins: in the journal (which may be None), in the store, and in the cache that callers read."""

    def __init__(
        self,
        store: Store,
        journal: Journal | None,
        *,
        cache: Cache,
        scheduler: Scheduler,
        notice: bool,
    ) -> None:
        self._store = store
        self._journal = journal
        self._cache = cache
        self._scheduler = scheduler
        self._notice = notice

    async def record(
        self,
        grant_id: str,
        answer: TokenResponse,
        dialect: Dialect,
        *,
        ownership: Ownership = NOBODY,
        answered_at: int | None = None,
    ) -> LoggedIn:
        """Register a grant under *grant_id* with what *answer* brought; one that was there is replaced.

        Args:
            grant_id: its id.
            answer: of the code exchange.
            dialect: of the provider.
            ownership: whose it is.
            answered_at: when the answer came (epoch ms); None: just now.

        Raises:
            ProviderRefused: there is no refresh token to keep the grant alive with.
            StoreUnavailable: Redis did not confirm it in time.
        """
        if answer.refresh_token is None:
            raise ProviderRefused(why_no_refresh_token(dialect, answer.scope), code="no_refresh_token")
        refresh_token, at = answer.refresh_token, self._store.clock() if answered_at is None else answered_at
        token, ending = self._token(grant_id, answer, dialect, at)
        lifetime = (token.expires_at - token.issued_at) // 1000
        logged_in = LoggedIn(grant_id, dialect.name, token.scope, lifetime, ownership.account)
        if self._store.clock() - at > _FROZEN_MS and await self._is_recorded(token):
            return logged_in
        journaled = partial(self._journaled, refresh_token=refresh_token, ending=ending, ownership=ownership)
        login, entry = await journaled(token, followed=token.generation - 1)
        ends, unsure = time.monotonic() + _PATIENCE, False
        while True:
            try:
                seen = await self._store.registry.generation(grant_id)
                # It was registered, and the reply was lost. It may have been refreshed since: then this refresh token
                # is spent.
                if unsure and seen is not None and (seen.provider, seen.granted_at) == (dialect.name, token.issued_at):
                    break
                if seen is not None and seen.generation >= token.generation:  # this clock is behind the one before
                    token = replace(token, generation=seen.generation + 1)
                    login, entry = await journaled(token, followed=seen.generation)
                if await self._store.registry.log_in(login, seen=seen, message=self._message(token)):
                    break
            except StoreUnavailable:
                unsure = True
                if time.monotonic() > ends:
                    raise
            await asyncio.sleep(_PAUSE)
        if entry is not None:
            entry.mark_recorded()
        self._cache.put(token)
        self._scheduler.wake(dialect.name)
        log.info("grant.reauthorized", grant_id=grant_id, provider=dialect.name, generation=token.generation)
        return logged_in

    async def _is_recorded(self, token: Token) -> bool:
        """Return whether another broker recorded this login, whose refresh token may be spent by now.

        While Redis does not answer it counts as not recorded: no answer is lost.
        """
        try:
            seen = await self._store.registry.generation(token.grant_id)
        except StoreUnavailable:
            return False
        return seen is not None and (seen.provider, seen.granted_at) == (token.provider, token.issued_at)

    def _token(self, grant_id: str, answer: TokenResponse, dialect: Dialect, now: int) -> tuple[Token, Ending]:
        """Return the token of an answer, and what is known of the grant's end.

        A token that cannot be served counts as expired, and is refreshed at once. *now* is when the answer came
        (epoch ms).
        """
        stated = lifetimes.carry(None, answer.grant_life, granted_at=now, now=now, rotated=True)
        expires_at, refresh_at = policy.plan(answer, dialect, now, random.random(), stated)
        if answer.access_token is None:
            expires_at = refresh_at = now
        token = Token(
            grant_id=grant_id,
            provider=dialect.name,
            generation=max(now, self._store.clock()),
            access_token=answer.access_token or Secret(""),
            token_type=answer.token_type,
            scope=answer.scope if answer.scope is not None else dialect.scope,
            issued_at=now,
            expires_at=expires_at,
            refresh_at=refresh_at,
            usable_until=usable_until(expires_at, refresh_at, dialect.old_token),
            extra=answer.extra,
        )
        return token, lifetimes.ending(dialect, stated, granted_at=now, answered_at=now)

    async def _journaled(
        self, token: Token, *, refresh_token: Secret, ending: Ending, ownership: Ownership, followed: int
    ) -> tuple[PreparedLogin, Entry | None]:
        """Prepare what a login brought, and put it on this replica's disk before Redis is asked anything."""
        login = self._store.registry.prepare_login(
            token, refresh_token, ending=ending, followed=followed, ownership=ownership
        )
        entry = None if self._journal is None else await self._journal.append(token.grant_id, login.record)
        return login, entry

    def _message(self, token: Token) -> Message:
        served = bool(token.access_token)
        return token_message("reauthorized", token, self._store.clock(), notice=self._notice or not served)
