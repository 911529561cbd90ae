"""Log in: from a login link to a registered grant.

A *ticket* names a login and lives ten minutes, however often its link is opened. Each opening is one authorization
request with a fresh *state*, which is bound to the browser by a cookie and used once. Knows nothing of pages or of
cookies' headers; `api.routes.login` does.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from broker.errors import (
    BrokerError,
    Conflict,
    InvalidRequest,
    ProviderRefused,
    ProviderUnavailable,
    StoreUnavailable,
)
from broker.login.binding import START_ANEW, AlreadyUsed, Binding, LoginRefused, digest, is_own
from broker.login.held import Answer
from broker.login.redirect import read_redirect, with_code
from broker.login.undecided import NOTHING_HELD, TO_BE_CONFIRMED, Undecided
from broker.model import Answered, Busy, InvalidClient, NotSent, Unknown
from broker.model.account import NOBODY
from broker.providers import authorization_url, challenge, check_issuer, new_verifier
from broker.providers.extra_members import of_callback
from broker.secret import Secret
from broker.store import Flow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.login.held import HeldLogins
    from broker.login.recorder import LoggedIn
    from broker.model import TokenResponse
    from broker.model.account import Ownership
    from broker.providers import Endpoint
    from broker.store import Store

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Started:
    """A login that waits for a browser, or for its redirect to be pasted."""

    ticket: str
    authorization_url: str
    state: str


@dataclass(frozen=True, slots=True)
class Opened:
    """One authorization request: where to send the browser, and the cookie that binds it."""

    authorization_url: str
    state: str
    cookie: str


class Login:
    """Starts and completes logins. Every method raises `StoreUnavailable` when Redis does not answer."""

    def __init__(
        self,
        store: Store,
        endpoints: Mapping[str, Endpoint],
        held: HeldLogins,
        *,
        redirect_uri: str,
        request_timeout: float,
    ) -> None:
        self._store = store
        self._endpoints = endpoints
        self.held = held
        self._binding = Binding(store, endpoints, redirect_uri)
        self._request_timeout = request_timeout

    async def start(
        self, grant_id: str, provider: str, *, annotations: Ownership = NOBODY, replace_account: bool = False
    ) -> Started:
        """Start a login; nothing of the grant changes until it is completed.

        Args:
            grant_id: the grant.
            provider: where to log in.
            annotations: the owner and label that the grant gets.
            replace_account: replace the grant even if it is of another account.
        """
        ticket = secrets.token_urlsafe(24)
        flow = Flow(
            "ticket",
            grant_id,
            provider,
            ticket,
            started_at=self._store.clock(),
            replace_account=replace_account,
            owner=annotations.owner,
            label=annotations.label,
        )
        url, state = await self._authorize(flow, cookie="")
        await self._store.flows.put(ticket, flow)
        return Started(ticket, url, state)

    async def status(self, ticket: str) -> Flow | None:
        """Return how far a login is; None once it has expired."""
        flow = await self._store.flows.get(ticket)
        return flow if flow is not None and flow.kind == "ticket" else None

    async def open(self, ticket: str, annotations: Ownership = NOBODY) -> Opened:
        """Open a login link once more: begin an authorization request.

        *annotations* are the owner and label of the link's query; they replace those of the login.

        Raises:
            LoginRefused: the link is unknown, has expired, or was used (`AlreadyUsed`).
        """
        flow = await self.status(ticket)
        if flow is None:
            raise LoginRefused(
                f"this login link is unknown or older than ten minutes: {START_ANEW}", denied="unknown_login"
            )
        if flow.status == "completed":
            raise AlreadyUsed(flow)
        cookie = secrets.token_urlsafe(24)
        owner = flow.owner if annotations.owner is None else annotations.owner
        label = flow.label if annotations.label is None else annotations.label
        url, state = await self._authorize(replace(flow, owner=owner, label=label, undecided=""), cookie)
        return Opened(url, state, cookie)

    async def _authorize(self, flow: Flow, cookie: str) -> tuple[str, str]:
        endpoint = self._endpoints.get(flow.provider)
        if endpoint is None:
            raise InvalidRequest(
                f"no provider {flow.provider!r} in the settings; there are: {', '.join(self._endpoints)}"
            )
        state = secrets.token_urlsafe(24)
        dialect = await endpoint.resolve()
        if dialect.authorization_endpoint is None:
            raise InvalidRequest(
                f"provider {flow.provider!r} has no authorization_endpoint, so nobody can log in there: set it"
            )
        verifier = new_verifier() if dialect.pkce else None
        url = authorization_url(
            dialect,
            dialect.authorization_endpoint,
            redirect_uri=self._binding.sent_redirect_uri(dialect),
            state=state,
            code_challenge=challenge(verifier) if verifier else None,
        )
        pending = replace(
            flow,
            kind="state",
            code_verifier=verifier.reveal() if verifier else "",
            cookie_digest=digest(cookie) if cookie else "",
            status="pending",
            error="",
            error_description="",
        )
        await self._store.flows.put(state, pending)
        return url, state

    async def callback(
        self, query: Mapping[str, str], cookies: Mapping[str, str], provider: str | None = None
    ) -> LoggedIn:
        """Complete the login that a browser comes back from.

        Args:
            query: Parameters of the redirect.
            cookies: Cookie value by state, as this browser holds them.
            provider: whose callback it was, where the path names one.

        Raises:
            Undecided: a person must decide first.
            LoginRefused: the redirect completes no login.
            ProviderRefused: the provider refused the code exchange.
            ProviderUnavailable: the provider did not answer it.
        """
        state = query.get("state") or await self._binding.find_state(cookies, provider)
        flow = await self._store.flows.get(state)
        if flow is None or flow.kind != "state":
            raise LoginRefused(
                f"this login is unknown or older than ten minutes, as is its link: {START_ANEW}",
                denied="unknown_login",
            )
        if flow.status != "pending" and flow.decision != "open":  # that page names accounts
            raise AlreadyUsed(flow, state)
        if not is_own(flow, cookies.get(state, "")):
            raise LoginRefused(
                "this browser is not the one that opened the login link: open the link in the browser you log in with, "
                "or complete it with `token-broker login --paste`",
                denied="other_browser",
            )
        self._binding.require_path(flow, provider)
        if flow.status != "pending":
            raise AlreadyUsed(flow, state)
        if not query.get("state"):
            await self._binding.require_state_unseen(flow)
        return await self._complete(state, flow, query, by_browser=True)

    async def complete(
        self, grant_id: str, redirected_to: str, state: str | None, check: Callable[[str], None] = lambda _: None
    ) -> LoggedIn:
        """Complete a login from the URL the browser was redirected to, pasted by the admin who started it.

        Args:
            grant_id: the grant.
            redirected_to: the URL.
            state: of the login, where the URL may have none.
            check: called with the provider before anything is done; what it raises ends this.

        Raises:
            InvalidRequest: it is not a URL that a provider redirects to.
            LoginRefused: the redirect completes no login.
            ProviderRefused: the provider refused the code exchange.
            ProviderUnavailable: the provider did not answer it.
        """
        query = read_redirect(redirected_to, *self._binding.return_uris())
        given = query.get("state") or state
        if state and query.get("state") not in {None, state}:
            raise LoginRefused("this URL belongs to another login: paste the one that followed the link just printed")
        flow = await self._store.flows.get(given) if given else None
        if flow is None or flow.kind != "state" or given is None:
            raise LoginRefused(f"this login is unknown or older than ten minutes: {START_ANEW}")
        if flow.grant_id != grant_id or flow.cookie_digest:
            raise LoginRefused("this URL belongs to another login: paste the one that followed the link just printed")
        check(flow.provider)
        if flow.status != "pending":
            raise AlreadyUsed(flow)
        endpoint = self._endpoints.get(flow.provider)
        if "state" not in query and not (endpoint and endpoint.dialect.state_may_be_missing):
            raise LoginRefused(
                "the URL carries no state: paste the whole URL, with everything behind the question mark"
            )
        self._binding.require_pasted(flow, redirected_to)
        return await self._complete(given, flow, query)

    async def replace_account(
        self, grant_id: str, ticket: str, check: Callable[[str], None] = lambda _: None
    ) -> LoggedIn:
        """Complete a login that brought another account than the grant's, as an admin decided.

        *check* is called with the provider before anything is done; what it raises ends this.

        Raises:
            Conflict: there is nothing to decide (any more), or whoever logged in must confirm it themselves.
        """
        flow = await self.status(ticket)
        if flow is None or flow.grant_id != grant_id or not flow.undecided:
            raise Conflict(NOTHING_HELD)
        check(flow.provider)
        if flow.status == "working":  # it waits for its confirmation, and no other account is in question
            raise Conflict(TO_BE_CONFIRMED)
        return await self.held.replace_account(flow.undecided)

    async def decide_by_browser(self, state: str, cookies: Mapping[str, str], provider: str | None = None) -> LoggedIn:
        """Do the same for the browser that logged in, which may also confirm its login.

        Raises:
            LoginRefused: another browser asks.
            Conflict: there is nothing to decide (any more).
        """
        flow = await self._store.flows.get(state)
        if flow is None or not is_own(flow, cookies.get(state, "")):
            raise LoginRefused(
                "this browser has no login to decide about: decide in the browser that logged in, or log in again with "
                "`token-broker login --replace-account`",
                denied="other_browser",
            )
        self._binding.require_path(flow, provider)
        return await self.held.replace_account(state)

    async def _complete(
        self, state: str, flow: Flow, query: Mapping[str, str], *, by_browser: bool = False
    ) -> LoggedIn:
        # Taken once: a reload may take the provider out of the settings while the exchange is under way.
        endpoint = self._endpoints.get(flow.provider)
        if endpoint is None:
            raise InvalidRequest(f"provider {flow.provider!r} is no longer in the settings")
        # An admin who pastes a redirect decides by that.
        must_confirm = by_browser and (not query.get("state") or endpoint.dialect.confirm_login)
        await self._require_unmoved(flow)
        known = await self.held.known_account(flow)
        before = await self._store.flows.advance(state, flow, replace(flow, status="working", code_verifier=""))
        if before is not flow:  # by now an answer may be held there
            raise AlreadyUsed(before or flow, state)
        await self._take_ticket(state, flow)
        try:
            answer = await self._exchange(endpoint, flow, query)
            held = Answer(answer, self._store.clock(), instead_of=known)
            logged_in = await self.held.conclude(state, flow, held, endpoint, confirmed=not must_confirm)
        except Undecided:
            raise  # the state and the ticket show it already
        except BrokerError as error:
            await self._set_status(state, flow, "failed", error)
            raise
        await self._set_status(state, flow, "completed", None)
        if query.get("state"):
            await self._binding.note_state(endpoint.dialect)
        return logged_in

    async def _require_unmoved(self, flow: Flow) -> None:
        """Require that the grant is not one of another provider that was made since the login began.

        Whoever began it may have no right there.

        Raises:
            LoginRefused: it is.
        """
        grant = await self._store.grants.get(flow.grant_id)
        if grant is not None and grant.provider != flow.provider and grant.granted_at >= flow.started_at:
            raise LoginRefused(
                f"{flow.grant_id} was logged in or imported at another provider since this login began: nothing was "
                "changed. Start a new login"
            )

    async def _take_ticket(self, state: str, flow: Flow) -> None:
        """Show at the ticket that a login is under way.

        A link may be opened often, but completes one login: any other opening comes too late. One that waits for its
        confirmation may be given up, and the link opened again.
        """
        ticket = await self._store.flows.get(flow.ticket)
        if ticket is None:
            raise LoginRefused(f"this login link is older than ten minutes: {START_ANEW}")
        if ticket.status != "completed" and (ticket.status != "working" or ticket.undecided):
            working = replace(flow, kind="ticket", status="working")
            before = await self._store.flows.advance(flow.ticket, ticket, working)
            if before is ticket:
                return
            ticket = before or working
        await self._store.flows.update(state, replace(flow, status=ticket.status, code_verifier="", cookie_digest=""))
        raise AlreadyUsed(ticket)

    async def _set_status(self, state: str, flow: Flow, status: str, error: BrokerError | None) -> None:
        """Show what became of a login, at its state and at its ticket; forget the secrets of its request."""
        ended = replace(flow, status=status, code_verifier="", cookie_digest="")  # type: ignore[arg-type]
        if error is not None:
            ended = replace(ended, error=error.code, error_description=str(error))
        try:
            await self._store.flows.update(state, ended)
            await self._store.flows.update(flow.ticket, replace(ended, kind="ticket"))
        except StoreUnavailable:  # the grant itself shows what happened
            log.warning("login.unrecorded", grant_id=flow.grant_id, status=status)

    async def _exchange(self, endpoint: Endpoint, flow: Flow, query: Mapping[str, str]) -> TokenResponse:
        dialect = await endpoint.resolve()
        others = {name: other.dialect.issuer for name, other in self._endpoints.items() if name != flow.provider}
        check_issuer(dialect, query.get("iss"), required=dialect.iss_parameter_supported, others=others)
        query = with_code(query, dialect.code_parameter)
        if "code" not in query:
            code = query.get("error", "no_code")[:64]
            kind = ProviderUnavailable if code in {"temporarily_unavailable", "server_error"} else LoginRefused
            words = f"the login did not succeed at the provider ({code!a}): nothing was changed; open its link again"
            if code == "access_denied":
                words = f"the login was not allowed ({code!a}): nothing was changed"
            raise kind(words, code=code if code.isascii() and code.isprintable() else "no_code")
        verifier = Secret(flow.code_verifier) if flow.code_verifier else None
        outcome = await endpoint.exchange_code(
            Secret(query["code"]),
            redirect_uri=self._binding.sent_redirect_uri(dialect),
            code_verifier=verifier,
            timeout=self._request_timeout,
        )
        match outcome:
            case Answered(answer):
                kept = of_callback(query, dialect.keep_from_callback, (Secret(query["code"]),))
                # What the provider itself says counts more than what the browser brought.
                return replace(answer, extra={**kept, **answer.extra})
            case NotSent(code, detail) | Busy(code, detail) | Unknown(code, detail):
                raise ProviderUnavailable(
                    f"the provider did not answer the code exchange ({code} {detail}): log in again"
                )
            case _:
                cure = f": correct client_id and client secret of [providers.{flow.provider}]"
                raise ProviderRefused(
                    f"the provider refused the code exchange ({f'{outcome.code} {outcome.detail}'.strip()})"
                    f"{cure if isinstance(outcome, InvalidClient) else ': log in again'}"
                )
