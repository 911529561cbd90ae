"""Admitting what a login brought: from the answer of a code exchange to a registered grant that is served."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from broker.errors import ProviderRefused, StoreUnavailable
from broker.model import Token
from broker.refresh import policy
from broker.wire import token_message

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.model import Answer
    from broker.providers import Dialect
    from broker.refresh.journal import Journal
    from broker.secret import Secret
    from broker.store import Store

log = structlog.get_logger()
_PATIENCE = 20.0
"""Seconds for which a browser is kept waiting while Redis does not answer; the journal keeps the rest."""
_PAUSE = 0.3


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """What a login brought."""

    grant_id: str
    provider: str
    scope: str | None
    expires_in: int


class Admission:
    """Admits grants. *serve* gives a token to callers at once, *wake* tells the scheduler, *journal* may be None."""

    def __init__(
        self, store: Store, journal: Journal | None, serve: Callable[[Token], object], wake: Callable[[str], None],
        *, notice: bool,
    ) -> None:  # fmt: skip
        self._store = store
        self._journal = journal
        self._serve = serve
        self._wake = wake
        self._notice = notice

    async def admit(self, grant_id: str, answer: Answer, dialect: Dialect) -> LoggedIn:
        """Register a grant under *grant_id* with what *answer* brought; one that was there is replaced.

        Raises `ProviderRefused` when there is no refresh token to keep it alive with, `StoreUnavailable`.
        """
        if answer.refresh_token is None:
            raise ProviderRefused(
                f"the provider gave no refresh_token, nothing can be kept alive: {missing_scope(dialect.scope)}",
                code="no_refresh_token",
            )
        ends = time.monotonic() + _PATIENCE
        while True:
            try:
                token = await self._register(grant_id, answer, answer.refresh_token, dialect)
            except StoreUnavailable:
                if time.monotonic() > ends:
                    raise
            else:
                self._wake(dialect.name)
                if token is None:
                    return LoggedIn(grant_id, dialect.name, dialect.scope, 0)
                return LoggedIn(grant_id, dialect.name, token.scope, (token.expires_at - token.issued_at) // 1000)
            await asyncio.sleep(_PAUSE)

    async def _register(self, grant_id: str, answer: Answer, refresh_token: Secret, dialect: Dialect) -> Token | None:
        now, registry = self._store.clock(), self._store.registry
        if answer.access_token is None:  # an answer we can refresh with, though not serve
            await registry.import_(grant_id, dialect.name, refresh_token, dialect.scope, due_at=now)
            return None
        seen = await registry.generation(grant_id)
        expires_at, refresh_at = policy.plan(answer, dialect, now, random.random())
        reauthorize_by = dialect.reauthorize_by(now, now)
        token = Token(
            grant_id=grant_id,
            provider=dialect.name,
            generation=max(now, (seen[1] if seen else 0) + 1),
            access_token=answer.access_token,
            token_type=answer.token_type,
            scope=answer.scope if answer.scope is not None else dialect.scope,
            issued_at=now,
            expires_at=expires_at,
            refresh_at=refresh_at,
            extra=answer.extra,
        )
        entry = None
        if self._journal is not None:
            try:
                record = registry.logged_in(
                    self._store.store_id, token, refresh_token, reauthorize_by=reauthorize_by, seen=seen
                )
                entry = await self._journal.append(grant_id, record)
            except OSError:
                pass  # the journal has said so
        dies = dialect.old_token == "dies"
        told = token_message("reauthorized", self._store.store_id, token, now, dies=dies, notice=self._notice)
        registered = await registry.log_in(token, refresh_token, reauthorize_by=reauthorize_by, seen=seen, message=told)
        if registered is None:
            raise StoreUnavailable("the grant keeps changing: log in again")
        if entry is not None:
            entry.settled = True
        self._serve(token)
        log.info("grant.reauthorized", grant_id=grant_id, provider=dialect.name, generation=token.generation)
        return token


def missing_scope(scope: str | None) -> str:
    """The scope that is probably missing when no refresh token came back."""
    asked = (scope or "").split()
    if "openid" in asked and "offline_access" not in asked:
        return 'add "offline_access" to the provider\'s scope'
    if "offline_access" not in asked:
        return (
            'the scope is probably missing (often "offline_access"; Google wants '
            'authorization_params = { access_type = "offline", prompt = "consent" })'
        )
    return "allow refresh tokens (offline access) for our client at the provider"
