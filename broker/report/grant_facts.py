"""What the broker's API says about one grant, and the phrases that most explanations of it share. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from broker.model.account import Account
from broker.report.attempts import provider_words
from broker.report.times import moment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import tzinfo

FINE: Final = 0
FAILED: Final = 1
TRY_AGAIN: Final = 75
LOG_IN: Final = 77
"""Exit codes of `explain`."""
_PARKED_AFTER = (
    "it is parked after five refusals in a row, but not before half of the time is gone that its token had left at the "
    "first of them"
)


def account_words(account: Mapping[str, Any]) -> str:
    """Return an account, as the API describes it, in words: `jane@example.com (248289761001)`."""
    return str(Account(**{name: account.get(name) for name in ("id", "email", "preferred_username", "name")}))  # type: ignore[arg-type]


def ownership_words(grant: Mapping[str, Any]) -> str:
    """Return whose a grant is, as far as that is known: account, owner and label; "" if nothing is."""
    account = grant.get("account")
    parts = {"account": account_words(account) if account else None}
    parts |= {name: grant.get(name) for name in ("owner", "label")}
    return ", ".join(f"{name} {text}" for name, text in parts.items() if text)


@dataclass(frozen=True, slots=True)
class GrantFacts:
    """A grant as `GET /v1/grants/{id}`, `/attempts` and `GET /v1/providers` describe it; times are epoch seconds."""

    name: str
    grant: Mapping[str, Any]
    past: Mapping[str, Any]
    provider: Mapping[str, Any]
    now: float
    zone: tzinfo | None = None
    """Of times in sentences; None: the local one."""

    @property
    def has_valid_token(self) -> bool:
        """Whether callers still get a token."""
        return (self.grant["expires_at"] or 0) > self.now

    @property
    def valid_until(self) -> int | None:
        """When its access token expires; None where it has already."""
        expires_at: int | None = self.grant["expires_at"]
        return expires_at if self.has_valid_token else None

    @property
    def token_sentence(self) -> str:
        """Until when its access token is served."""
        at = self.grant["expires_at"]
        if at is None:
            return "It has no access token yet."
        if self.has_valid_token:
            return f"Its access token is served until {self.at(at)}."
        return f"It has no valid access token: the last one expired at {self.at(at)}."

    @property
    def waiting_exit_code(self) -> Literal[0, 75]:
        """The exit code where nobody needs to do anything."""
        return FINE if self.has_valid_token else TRY_AGAIN

    @property
    def login_command(self) -> str:
        """The command by which a person logs in again."""
        return f"token-broker login {self.name} --provider {self.grant['provider']}"

    @property
    def retry_command(self) -> str:
        """The command that retries it."""
        return f"token-broker retry {self.name}"

    @property
    def last_failure(self) -> dict[str, Any] | None:
        """The last attempt that brought no token."""
        failed = (a for a in reversed(self.past["attempts"]) if a["decided"] not in {"kept", "restored"})
        return next(failed, None)

    @property
    def failure_detail(self) -> str:
        """What the provider said when the last attempt failed, in its own words."""
        words = provider_words(self.last_failure) if self.last_failure else ""
        return words or (self.grant["last"] or {}).get("detail") or "no detail"

    @property
    def verdict_sentence(self) -> str:
        """Whom the last refusal means, and by which evidence; empty where its code says so, or nothing was refused."""
        failure = self.last_failure or {}
        name = self.grant["provider"]
        match failure.get("decided"), failure.get("outcome"):
            case "undecided", _:
                return (
                    f" It means this grant, or the client registration at {name}: the broker parks the grant if it is "
                    "refused again after others succeeded, and suspends the provider if it is refused again before."
                )
            case "parked_alone" | "postponed_alone" as decided, _:
                parks = "" if decided == "parked_alone" else f"; {_PARKED_AFTER}"
                return f" Other grants of {name} succeed meanwhile, so it means this grant, not the client{parks}."
            case "postponed", "rejected":
                return f" The answer does not say that the grant is dead; {_PARKED_AFTER}."
            case _:
                return ""

    def at(self, at: float) -> str:
        """Return a time as local time and from now."""
        return moment(at, self.now, self.zone)
