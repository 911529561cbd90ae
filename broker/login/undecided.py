"""Logins whose answer waits for a person: what is wrong or not known, and what the person is asked. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import BrokerError

if TYPE_CHECKING:
    from broker.model.account import Account
    from broker.store import Flow

NOTHING_HELD = (
    "there is nothing to decide: the ten minutes are over, somebody decided already, or the account was logged in or "
    "imported since; if it does not show the account that you want, log in again with "
    "`token-broker login --replace-account`"
)
TO_BE_CONFIRMED = "whoever logged in confirms this login on the page that their browser shows: nobody else can"


class Undecided(BrokerError):
    """Nothing was recorded, until a person decides; the message says what about."""

    def __init__(self, state: str, message: str) -> None:
        self.state = state
        super().__init__(message)


class OtherAccount(Undecided):
    """The login brought another account than the grant's (409)."""

    code = "other_account"

    def __init__(self, state: str, flow: Flow, account: Account | None, instead_of: Account | None) -> None:
        super().__init__(
            state,
            f"what is kept as {flow.grant_id} at {flow.provider} is of account {instead_of}, and this login is of "
            f'account {account}: nothing was replaced. To replace the account, press "Replace the account" in the '
            f"browser within ten minutes, or run `token-broker login {flow.grant_id} --provider {flow.provider} "
            "--replace-account`",
        )


class Unconfirmed(Undecided):
    """Whoever logged in must confirm it: the settings say so, or the redirect carried no state.

    Without a state it may be of a login that another person began (RFC 6749 §10.12); with *has_state* it is not.
    """

    code = "confirmation_required"

    def __init__(
        self,
        state: str,
        flow: Flow,
        account: Account | None,
        why_unknown: str | None = None,
        *,
        has_state: bool = False,
    ) -> None:
        whose = why_unknown or "the provider does not say whose account this login is of"
        if account is not None:
            whose = f"this login is of account {account}"
        label = f" ({flow.label})" if flow.label else ""
        only = "Confirm only if"
        if not has_state:
            only = "The provider does not say which login its response belongs to: confirm only if"
        yours = "this is your account and you" if account is not None else "you have just logged in, and you"
        super().__init__(
            state,
            f"{whose[:1].upper()}{whose[1:]}. It will be kept as {flow.grant_id}{label} at {flow.provider}, and "
            f"programs that may read that get its tokens. {only} {yours} want this. Otherwise close this page: nothing "
            "is kept, and the login link can be opened again.",
        )


def is_unconfirmed(flow: Flow) -> bool:
    """Return whether the answer that a flow holds is recorded only after a person confirmed the login."""
    return flow.error == Unconfirmed.code
