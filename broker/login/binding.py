"""What binds a redirect to one login: its state, the cookie of the browser that opened it, and its provider's path.

Without them a browser could be given the code of another person's login (RFC 6749 §10.12), and a provider that of
another one (RFC 9207 §1).
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from typing import TYPE_CHECKING, Any, Literal

from broker.errors import BrokerError, StoreUnavailable
from broker.login.redirect import is_at
from broker.store import returned_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.providers import Dialect, Endpoint
    from broker.store import Flow, Store

Denial = Literal["unknown_login", "other_browser", "other_page"]
"""Why a redirect that nobody here waits for is refused: a stranger can send as many as they like."""
START_ANEW = "ask for a new one, or make one with `token-broker login`"
_MOST_COOKIES = 32
"""Logins of one browser that a redirect without state may be of: each costs a question to Redis."""


class LoginRefused(BrokerError):
    """This redirect completes no login; the message says why, and what to do."""

    code = "login_refused"

    def __init__(self, message: str, *, denied: Denial | None = None, **more: Any) -> None:
        super().__init__(message, **more)
        self.denied = denied


class AlreadyUsed(LoginRefused):
    """The state was used before: a reload, the back button, or a second window."""

    code = "already_used"

    def __init__(self, flow: Flow, state: str = "") -> None:
        super().__init__("this login link was used already: nothing was done again")
        self.flow = flow
        self.state = state


class Binding:
    """Finds the login of a redirect, or refuses it. Methods that ask Redis raise `StoreUnavailable`."""

    def __init__(self, store: Store, endpoints: Mapping[str, Endpoint], redirect_uri: str) -> None:
        self._store = store
        self._endpoints = endpoints
        self._redirect_uri = redirect_uri

    def return_uri(self, dialect: Dialect) -> str:
        """Return where the browser comes back to."""
        return f"{self._redirect_uri}/{dialect.name}" if dialect.own_redirect_path else self._redirect_uri

    def sent_redirect_uri(self, dialect: Dialect) -> str:
        """Return what the provider is sent as `redirect_uri`."""
        return dialect.redirect_uri or self.return_uri(dialect)

    def return_uris(self) -> tuple[str, ...]:
        """Return every URI that a redirect may begin with, the shared one first."""
        dialects = [endpoint.dialect for endpoint in self._endpoints.values()]
        own = {uri for dialect in dialects for uri in (self.return_uri(dialect), dialect.redirect_uri) if uri}
        return self._redirect_uri, *sorted(own - {self._redirect_uri})

    def require_pasted(self, flow: Flow, pasted: str) -> None:
        """Require that a pasted URL is one that the provider of a login redirects to.

        Raises:
            LoginRefused: it is another provider's.
        """
        endpoint = self._endpoints.get(flow.provider)
        if endpoint is None:
            return
        uri = self.return_uri(endpoint.dialect)
        if not is_at(pasted, uri, endpoint.dialect.redirect_uri or uri):
            raise LoginRefused(f"this URL is of another provider's login: {flow.provider!r} redirects to {uri}")

    def require_path(self, flow: Flow, provider: str | None) -> None:
        """Require that a browser came back to the path of the login's provider, so that no other one gets its code.

        Args:
            flow: the login.
            provider: that the path names; None: the shared path.

        Raises:
            LoginRefused: the path is another provider's, or is shared and the provider has one of its own.
        """
        if flow.provider in self._endpoints and not self.is_path_of(flow, provider):
            raise LoginRefused(
                f"this login is of provider {flow.provider!r}, which redirects elsewhere: nothing was exchanged. "
                "Start a new login; if it fails again, correct redirect_path and what is registered at the provider"
            )

    def is_path_of(self, flow: Flow, provider: str | None) -> bool:
        """Return whether *provider*, as a path names it, is where the provider of a login redirects to."""
        endpoint = self._endpoints.get(flow.provider)
        own = endpoint is not None and endpoint.dialect.own_redirect_path
        return provider == (flow.provider if own else None)

    async def note_state(self, dialect: Dialect) -> None:
        """Note that a provider returned a state which it may leave out, so that it may no longer."""
        if dialect.state_may_be_missing:
            with contextlib.suppress(StoreUnavailable):  # another login will show it
                await returned_state.note(self._store.primary, self._store.keys, dialect.name, _server(dialect))

    async def require_state_unseen(self, flow: Flow) -> None:
        """Require that the provider of a login never returned a state, since this redirect has none.

        Raises:
            LoginRefused: it did.
        """
        endpoint = self._endpoints.get(flow.provider)
        if endpoint is None:
            return
        seen = await returned_state.last_seen_at(self._store.primary, self._store.keys, flow.provider)
        if seen == _server(endpoint.dialect):
            raise LoginRefused(
                f"the redirect carries no state, which provider {flow.provider!r} has returned before: it may be of "
                "another person's login. Open the login link again; if the provider no longer returns state, complete "
                "the login with `token-broker login --paste`"
            )

    async def find_state(self, cookies: Mapping[str, str], provider: str | None) -> str:
        """Return the state of a redirect that carries none, where the dialect lets the cookie alone find it."""
        pending: dict[str, Flow] = {}
        for state, cookie in list(cookies.items())[-_MOST_COOKIES:]:  # browsers send the newest last
            flow = await self._store.flows.get(state)
            if flow is None or flow.kind != "state" or not self.is_path_of(flow, provider):
                continue
            if flow.decision == "open" and not is_own(flow, cookie):  # its page names accounts
                continue
            endpoint = self._endpoints.get(flow.provider)
            if endpoint is not None and endpoint.dialect.state_may_be_missing:
                pending[state] = flow
        waiting = {state: flow for state, flow in pending.items() if flow.status == "pending"}
        if not waiting and pending:
            state, flow = next(reversed(pending.items()))
            raise AlreadyUsed(flow, state)
        if len({(flow.grant_id, flow.provider) for flow in waiting.values()}) > 1:
            raise LoginRefused(
                "several logins are under way in this browser and the provider does not say which this is: "
                "open one of the login links in a private window"
            )
        if not waiting:
            raise LoginRefused(
                "the redirect carries no state, and no login of this browser waits: open the login link again in this "
                f"browser; if it is older than ten minutes, {START_ANEW}",
                denied="unknown_login",
            )
        return next(reversed(waiting))


def _server(dialect: Dialect) -> str:
    """Return which server a provider's authorization requests go to: a provider that moves begins anew."""
    return dialect.authorization_endpoint or dialect.issuer or ""


def is_own(flow: Flow, cookie: str) -> bool:
    """Return whether *cookie* is that of the browser that opened the login link."""
    return bool(flow.cookie_digest) and secrets.compare_digest(flow.cookie_digest, digest(cookie))


def digest(cookie: str) -> str:
    """Return the digest of a cookie, which is what a login keeps of it."""
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).hexdigest()
