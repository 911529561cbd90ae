"""Answers of code exchanges that are not recorded yet: their account is being asked for, or a person decides.

An answer is held sealed in the flow of its state, so that a broker that dies loses none. It is recorded once, when
its account is known, or when a person decides to replace the grant's account or confirms the login; what nobody decides
in ten minutes is revoked.
Each is also a subject of the schedule `held`, and `HeldLogins.run` ends what another broker left half done.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import structlog

from broker.errors import (
    Conflict,
    InvalidSettings,
    ProviderRefused,
    ProviderUnavailable,
    StoreUnavailable,
)
from broker.login.undecided import NOTHING_HELD, OtherAccount, Unconfirmed, Undecided, is_unconfirmed
from broker.model import GrantLife, TokenResponse
from broker.model.account import Account, Ownership
from broker.process.tasks import finish, run_until
from broker.providers import revoke
from broker.providers.account import AccountUnknown, account_in, fetch_account
from broker.secret import Secret
from broker.store.ownership import is_held

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.login.recorder import LoggedIn, LoginRecorder
    from broker.process.heartbeat import Heartbeat
    from broker.providers import Endpoint
    from broker.store import Flow, Store

log = structlog.get_logger()
DECIDE_MS = 600_000
"""How long a person has to decide."""
_KEEP_S = 87_000
"""How long the answer is kept in all: a broker that was down meanwhile still revokes it."""
_SCHEDULE = "held"
STALE_MS = 60_000
"""Whoever recorded or revoked it is dead after so long."""
_LEASE_MS = 120_000
PAUSE = 5.0
"""Seconds between two looks at the schedule."""
_PATIENCE = 20.0
"""Seconds for which Redis is asked to take an answer."""
_RETRY = 0.3


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of a code exchange, whose it is, and whose the grant is that it would replace."""

    answer: TokenResponse
    answered_at: int
    account: Account | None = None
    instead_of: Account | None = None

    def serialize(self) -> str:
        """Return it as text, tokens included: for sealing."""
        members = {field.name: getattr(self.answer, field.name) for field in fields(TokenResponse)}
        grant_life = asdict(members.pop("grant_life"))
        secrets = {name: value.reveal() for name, value in members.items() if isinstance(value, Secret)}
        return json.dumps(
            {
                "members": {name: value for name, value in members.items() if name not in secrets},
                "grant_life": grant_life,
                "secrets": secrets,
                "answered_at": self.answered_at,
                "account": self.account and self.account.members(),
                "instead_of": self.instead_of and self.instead_of.members(),
            }
        )


def parse_answer(text: str) -> Answer:
    """Return what `Answer.serialize` wrote; members that this version does not know are left out."""
    held: dict[str, Any] = json.loads(text)
    known = {field.name for field in fields(TokenResponse)}
    members = {name: value for name, value in held["members"].items() if name in known}
    members |= {name: Secret(value) for name, value in held["secrets"].items() if name in known}
    members["warnings"] = tuple(members.get("warnings", ()))
    members["grant_life"] = GrantLife(**held["grant_life"])
    accounts = (Account(**held[name]) if held[name] else None for name in ("account", "instead_of"))
    return Answer(TokenResponse(**members), held["answered_at"], *accounts)


class HeldLogins:
    """Decides whether the answer of a code exchange is recorded."""

    def __init__(
        self,
        store: Store,
        endpoints: Mapping[str, Endpoint],
        recorder: LoginRecorder,
        heartbeat: Heartbeat,
        *,
        request_timeout: float,
    ) -> None:
        self._store = store
        self._endpoints = endpoints
        self._recorder = recorder
        self._heartbeat = heartbeat
        self._request_timeout = request_timeout

    async def known_account(self, flow: Flow) -> Account | None:
        """Return the account that the grant of a login has now at the login's provider."""
        grant = await self._store.grants.get(flow.grant_id)
        return grant.ownership.account if grant is not None and grant.provider == flow.provider else None

    async def conclude(
        self, state: str, flow: Flow, answer: Answer, endpoint: Endpoint, *, confirmed: bool = True
    ) -> LoggedIn:
        """Record an answer, unless a person must decide first: then hold it.

        Args:
            state: of the authorization request.
            flow: the login.
            answer: what the exchange brought; `instead_of` is the account that the grant has.
            endpoint: of the exchange, whatever the settings say meanwhile.
            confirmed: nobody has to confirm it: the redirect is known to be of this login, and the settings do not ask.

        Raises:
            Undecided: a person must decide; until then the answer is held.
            ProviderRefused: its id_token cannot be accepted, or it has no refresh token.
            StoreUnavailable: Redis did not answer in time.
        """
        found, dialect = answer.answer, await endpoint.resolve()
        account, warning = account_in(found, dialect, self._store.clock()), None
        undecided: Undecided | None = None
        if found.refresh_token is not None:
            if account is None and dialect.account_endpoint is not None:
                with contextlib.suppress(StoreUnavailable):  # it is in the journal a few seconds later
                    asked = flow if confirmed else replace(flow, error=Unconfirmed.code)
                    await self._hold(state, replace(asked, status="working"), answer, "identify")
                account, warning = await self._fetch(endpoint, flow, answer)
            answer = replace(answer, account=account)
            if not flow.replace_account and _is_other(answer):
                undecided = OtherAccount(state, flow, account, answer.instead_of)
            elif not confirmed:
                undecided = Unconfirmed(state, flow, account, warning, has_state=not dialect.state_may_be_missing)
        if undecided is not None:
            await self._hold_open(state, flow, answer, undecided)
            if isinstance(undecided, OtherAccount):
                log.warning("login.other_account", grant_id=flow.grant_id, provider=flow.provider)
            else:
                log.info("login.unconfirmed", grant_id=flow.grant_id, provider=flow.provider)
            raise undecided
        return replace(await self._record(flow, answer, endpoint), warning=warning)

    async def _fetch(self, endpoint: Endpoint, flow: Flow, answer: Answer) -> tuple[Account | None, str | None]:
        try:
            return await fetch_account(endpoint, answer.answer), None
        except AccountUnknown as error:
            log.warning("login.account_unknown", grant_id=flow.grant_id, provider=flow.provider, detail=str(error))
            return None, f"the account is not known: its endpoint did not name it ({error})"

    async def _record(self, flow: Flow, answer: Answer, endpoint: Endpoint) -> LoggedIn:
        return await self._recorder.record(
            flow.grant_id,
            answer.answer,
            endpoint.dialect,
            ownership=Ownership(answer.account, flow.owner, flow.label),
            answered_at=answer.answered_at,
        )

    async def _hold(self, state: str, flow: Flow, answer: Answer, decision: Literal["identify", "open"]) -> None:
        """Keep an answer, sealed, and have `run` watch over it."""
        held = replace(
            flow, held=answer.serialize(), decision=decision, decided_at=self._store.clock(), code_verifier=""
        )
        await self._store.notices.enqueue(_SCHEDULE, [state])
        await self._store.flows.put(state, held, _KEEP_S)

    async def _hold_open(self, state: str, flow: Flow, answer: Answer, error: Undecided) -> None:
        """Keep an answer until a person decides, and show so at the login's ticket.

        A login that waits for its confirmation is still under way there, so that whoever waits for it goes on.

        Raises:
            StoreUnavailable: Redis does not take it in time: the answer is lost, and nothing was replaced.
        """
        flow = replace(flow, status="failed", error=error.code, error_description=str(error))
        shown = replace(flow, kind="ticket", code_verifier="", cookie_digest="", undecided=state)
        if is_unconfirmed(flow):
            shown = replace(shown, status="working", error="", error_description="")
        ends = time.monotonic() + _PATIENCE
        while True:
            try:
                await self._hold(state, flow, answer, "open")
                await self._store.flows.update(flow.ticket, shown)
            except StoreUnavailable:
                if time.monotonic() > ends:
                    raise
                await asyncio.sleep(_RETRY)
            else:
                return

    async def replace_account(self, state: str) -> LoggedIn:
        """Record the answer that is held for *state*, as a person decided or confirmed.

        Raises:
            Conflict: there is nothing to decide (any more).
            StoreUnavailable: Redis did not answer in time.
        """
        waiting = await self._store.flows.get(state)
        endpoint = self._endpoints.get(waiting.provider) if waiting is not None else None
        if waiting is None or waiting.decision != "open" or endpoint is None or await self._is_outdated(waiting):
            raise Conflict(NOTHING_HELD)
        if waiting.decided_at + DECIDE_MS <= self._store.clock():  # `run` drops it in a moment
            raise Conflict(NOTHING_HELD)
        flow = await self._take(state, "replace")
        if flow is None:
            raise Conflict(NOTHING_HELD)
        answer = parse_answer(flow.held)
        logged_in = await self._record(flow, answer, endpoint)
        if answer.account is None and endpoint.dialect.account_endpoint is not None:
            logged_in = replace(logged_in, warning="the account is not known: its endpoint did not name it")
        if is_unconfirmed(flow):
            log.info("login.confirmed", grant_id=flow.grant_id, provider=flow.provider)
        else:
            log.warning("login.account_replaced", grant_id=flow.grant_id, provider=flow.provider)
        await self._end(state, flow, completed=True)
        return logged_in

    async def _is_outdated(self, flow: Flow) -> bool:
        """Return whether the grant was logged in or imported since the answer that is held: that must stay."""
        grant = await self._store.grants.get(flow.grant_id)
        return grant is not None and grant.granted_at > parse_answer(flow.held).answered_at

    async def _take(self, state: str, decision: Literal["replace", "drop"]) -> Flow | None:
        """Take a held answer whose decision is open; return its flow, to one of several callers."""
        flow = await self._store.flows.get(state)
        if flow is None or flow.decision != "open":
            return None
        taken = replace(flow, decision=decision, decided_at=self._store.clock())
        return flow if await self._store.flows.advance(state, flow, taken) is flow else None

    async def _end(self, state: str, flow: Flow, *, completed: bool) -> None:
        """Forget a held answer; show at the ticket if the login was completed after all."""
        ended = replace(flow, held="", decision="", cookie_digest="", code_verifier="")
        if completed:
            ended = replace(ended, status="completed", error="", error_description="")
        elif flow.error in {OtherAccount.code, Unconfirmed.code}:
            # The page of a state is anybody's who knows it, and names no accounts.
            ended = replace(ended, status="failed", error_description=NOTHING_HELD)
        await self._store.flows.update(state, ended)
        ticket = await self._store.flows.get(flow.ticket)
        if ticket is None:
            return
        shows_it = ticket.undecided == state or (completed and ticket.status == "working" and not ticket.undecided)
        if shows_it and (completed or ticket.status == "working"):
            await self._store.flows.update(flow.ticket, replace(ended, kind="ticket"))

    async def run(self, stopping: asyncio.Event) -> None:
        """Revoke what nobody decided, and complete what another broker left half done, until *stopping* is set."""
        while not stopping.is_set():
            await run_until(stopping, self.step())

    async def step(self) -> None:
        """Look through the schedule once, then pause."""
        self._heartbeat.signal()
        try:
            for leased in await self._store.notices.lease(_SCHEDULE, 1, _LEASE_MS):
                self._heartbeat.signal(allow=2 * _PATIENCE + self._request_timeout)
                next_at = await finish(self._process(leased.subject))
                await self._store.notices.finish(_SCHEDULE, leased, "", next_at)
        except StoreUnavailable as error:
            self._heartbeat.lose_store(error)
        else:
            self._heartbeat.trouble = ""
        await asyncio.sleep(PAUSE)

    async def _process(self, state: str) -> int | None:
        """End one held answer if its time has come; return when to look again (epoch ms), None for never."""
        flow, now = await self._store.flows.get(state), self._store.clock()
        if flow is None or not flow.decision:
            return now + STALE_MS if flow is not None and flow.status == "working" else None
        due = flow.decided_at + (DECIDE_MS if flow.decision == "open" else STALE_MS)
        if due > now or flow.provider not in self._endpoints:
            return max(due, now + STALE_MS)
        answer, endpoint = parse_answer(flow.held), self._endpoints[flow.provider]
        left_half_done = flow.decision in {"identify", "replace"}
        if left_half_done and not await self._is_outdated(flow):
            return await self._complete(state, flow, answer, endpoint)
        if left_half_done or flow.decision == "drop" or await self._take(state, "drop") is not None:
            await self._revoke(flow, answer, endpoint)
            await self._end(state, flow, completed=False)
        return None

    async def _complete(self, state: str, flow: Flow, answer: Answer, endpoint: Endpoint) -> int | None:
        """Complete a login whose broker died; a journal may have done so already."""
        grant = await self._store.grants.get(flow.grant_id)
        if grant is None or (grant.provider, grant.granted_at) != (flow.provider, answer.answered_at):
            try:
                if flow.decision == "replace":
                    await self._record(flow, answer, endpoint)
                else:
                    known = await self.known_account(flow)
                    answer, confirmed = replace(answer, instead_of=known), not is_unconfirmed(flow)
                    await self.conclude(state, flow, answer, endpoint, confirmed=confirmed)
            except Undecided:
                return self._store.clock() + DECIDE_MS
            except ProviderRefused as error:
                log.warning("login.failed", error=error.code, detail=str(error))
                await self._end(state, flow, completed=False)
                return None
            except (ProviderUnavailable, InvalidSettings) as error:  # of discovery: the answer waits
                log.warning("login.failed", error=error.code, detail=str(error))
                return self._store.clock() + STALE_MS
        await self._end(state, flow, completed=True)
        return None

    async def _revoke(self, flow: Flow, answer: Answer, endpoint: Endpoint) -> None:
        """Revoke an answer that nobody wanted.

        Not where a grant of the same account may be kept: some providers end every token of an account and a client
        together (Google).
        """
        store, refresh_token = self._store, answer.answer.refresh_token
        grant_ids = await store.grants.ids(flow.provider)
        owner = answer.account
        if owner is None and endpoint.dialect.account_endpoint is not None:  # nobody has asked, or it was away
            owner, _ = await self._fetch(endpoint, flow, answer)
        account = owner.id if owner else None
        if refresh_token is None or account is None:
            result, detail = "kept", "its account is not known, and a grant of the same account would end with it"
        elif await is_held(store.primary, store.keys, store.sealer, grant_ids, account):
            result, detail = "kept", "a grant of the same account would end with it"
        else:
            revocation = await revoke(
                endpoint,
                access_token=answer.answer.access_token,
                refresh_token=refresh_token,
                timeout=self._request_timeout,
            )
            result, detail = revocation.result, f"{revocation.code} {revocation.detail}".strip()
        log.info("login.dropped", grant_id=flow.grant_id, provider=flow.provider, result=result, detail=detail)


def _is_other(answer: Answer) -> bool:
    """Return whether the grant is known to be of another account."""
    account, instead_of = answer.account, answer.instead_of
    return account is not None and instead_of is not None and account.id != instead_of.id
