"""Why a grant is as it is, and what happens next, in sentences. Pure: what the broker told, and `now`.

Works on what `GET /v1/grants/{id}`, `GET /v1/grants/{id}/attempts` and `GET /v1/providers` answer; times are epoch
seconds. `explain` goes from what concerns nobody else (no such grant) over what a person must do to what heals by
itself; the first that holds is the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker.cli.times import clock, moment, span

if TYPE_CHECKING:
    from collections.abc import Mapping

FINE, FAILED, TRY_AGAIN, LOG_IN = 0, 1, 75, 77
EXITS = {
    FINE: "nothing to do",
    FAILED: "a person must correct something",
    TRY_AGAIN: "no token now; it recovers by itself",
    LOG_IN: "a person must log in",
}
"""What `Explained.exit_code` may be."""
SOON = 14 * 86400
"""Seconds before the end of a grant at which a person is told of it."""
_OVERDUE = 30
_HALF_CLOSED = 3
_REGISTRATION = frozenset({"invalid_client", "unauthorized_client"})

Told = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Explained:
    """A grant in words; *exit_code* is what a script should go by."""

    why: str
    """How it stands, and why."""
    next: str
    """What happens next without anybody doing anything."""
    next_at: int | None = None
    """When that is (epoch seconds), where it is known."""
    person: str = "nothing"
    """What a person must do, or can do."""
    command: str | None = None
    """The command that does it."""
    exit_code: int = FINE


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known, and the words that most explanations need."""

    name: str
    grant: Told
    past: Told
    provider: Mapping[str, Any]
    now: float

    @property
    def living(self) -> bool:
        return (self.grant["expires_at"] or 0) > self.now

    @property
    def token(self) -> str:
        at = self.grant["expires_at"]
        if at is None:
            return "It has no access token yet."
        if self.living:
            return f"Its access token is served until {self.at(at)}."
        return f"It has no valid access token: the last one ended at {self.at(at)}."

    @property
    def heals(self) -> int:
        """The exit code where nobody needs to do anything."""
        return FINE if self.living else TRY_AGAIN

    @property
    def login(self) -> str:
        return f"token-broker login {self.name} --provider {self.grant['provider']}"

    @property
    def retry(self) -> str:
        return f"token-broker retry {self.name}"

    @property
    def failure(self) -> Told | None:
        """The last attempt that brought nothing."""
        failed = (a for a in reversed(self.past["attempts"]) if a["decided"] not in {"kept", "restored"})
        return next(failed, None)

    @property
    def said(self) -> str:
        """What the server said when the last attempt brought nothing, in its own words."""
        words = _said(self.failure) if self.failure else ""
        return words or (self.grant["last"] or {}).get("detail") or "no detail"

    def at(self, at: float) -> str:
        return moment(at, self.now)


def explain(
    name: str, grant: Told | None, past: Told | None, provider: Mapping[str, Any] | None, now: float
) -> Explained:
    """Why the grant *name* is as it is; *grant* and *past* are None where there is none, likewise *provider*."""
    if grant is None or past is None:
        return _absent(name, past, now)
    seen = _Seen(name, grant, past, provider or {}, now)
    if grant["unreadable"] or grant["reason"] == "sealed_with_missing_key":
        return _unreadable(seen)
    if grant["state"] == "parked":
        return _dead(seen) if grant["reason"] == "reauthorization_required" else _rejected(seen)
    if not seen.provider.get("kind"):
        return _no_provider(seen)
    if grant["state"] == "leased":
        return _leased(seen)
    if past["fenced_until"]:
        return _fenced(seen)
    if seen.provider["suspended"]:
        return _suspended(seen)
    if past["unknown_at"]:
        return _unknown(seen)
    if (seen.provider["not_before"] or 0) > now or seen.provider["failures"] >= _HALF_CLOSED:
        return _waiting_for_provider(seen)
    return _failing(seen) if grant["failures"] else _planned(seen)


def _absent(name: str, past: Told | None, now: float) -> Explained:
    if past is not None and past["forgotten_at"]:
        return Explained(
            f"Grant {name} was logged out and forgotten at {moment(past['forgotten_at'], now)}.",
            "Nothing: no broker asks for it, and no journal brings it back.",
            person="log in, if it is still needed",
            command=f"token-broker login {name} --provider PROVIDER",
            exit_code=FAILED,
        )
    return Explained(
        f"There is no grant {name}, and none of this id was forgotten within the last month.",
        "Nothing.",
        person="compare the id with those that there are, or log in",
        command="token-broker status",
        exit_code=FAILED,
    )


def _unreadable(seen: _Seen) -> Explained:
    return Explained(
        f"Grant {seen.name} was sealed with a key that is no longer in sealing.keys_file: no broker can open it.",
        "Nothing: no token is served and none is refreshed until the key is back.",
        person="put the old key back into the key file, below the new one, restart the brokers, and take the grant up",
        command=seen.retry,
        exit_code=FAILED,
    )


def _dead(seen: _Seen) -> Explained:
    then = "Then callers get 409." if seen.living else "Callers get 409."
    return Explained(
        f"The provider {seen.grant['provider']} no longer accepts the refresh token of grant {seen.name} "
        f"({seen.said}).",
        f"Nothing: no broker asks for it any more. {seen.token} {then}",
        seen.grant["expires_at"] if seen.living else None,
        person="log in again, under the same id; if the provider has taken back what it said (a disabled user), "
        f"`{seen.retry}` asks once more",
        command=seen.login,
        exit_code=LOG_IN,
    )


def _rejected(seen: _Seen) -> Explained:
    return Explained(
        f"The provider {seen.grant['provider']} rejected the refresh of grant {seen.name} ({seen.said}), so it was "
        "parked.",
        f"Nothing: no broker asks for it until somebody takes it up. {seen.token}",
        seen.grant["expires_at"] if seen.living else None,
        person="mend what the provider complains of (scope, settings of the provider), and take the grant up",
        command=seen.retry,
        exit_code=FAILED,
    )


def _no_provider(seen: _Seen) -> Explained:
    name = seen.grant["provider"]
    return Explained(
        f"The provider {name} of grant {seen.name} is not in the settings of the broker that answered.",
        f"Nothing, unless another broker has it in its settings. {seen.token}",
        seen.grant["expires_at"] if seen.living else None,
        person=f"add [providers.{name}] to the settings and restart, or log the grant in at another provider",
        command=f"token-broker login {seen.name} --provider PROVIDER",
        exit_code=FAILED,
    )


def _leased(seen: _Seen) -> Explained:
    ends, under_way = seen.past["next_at"], seen.past["under_way"]
    until = f" Its lease ends at {seen.at(ends)}; what is still open then is of unknown outcome." if ends else ""
    if under_way is None:
        why = f"A broker holds grant {seen.name} for a log out."
        return Explained(why, f"It is forgotten, or due again at the end of the lease.{until}", ends)
    return Explained(
        f"Broker {under_way['replica'] or '(unnamed)'} has been asking the provider for grant {seen.name} since "
        f"{seen.at(under_way['at'])}.",
        f"Whatever comes of it is written down. {seen.token}{until}",
        ends,
        exit_code=seen.heals,
    )


def _fenced(seen: _Seen) -> Explained:
    opens = seen.past["fenced_until"]
    return Explained(
        "Redis is another run of the server than before (a restart, a failover, a restore) and may have lost what it "
        "had acknowledged, so nobody refreshes anything yet: every broker first tells it what its journal holds.",
        f"Refreshing goes on at {seen.at(opens)}. {seen.token}",
        opens,
        exit_code=seen.heals,
    )


def _suspended(seen: _Seen) -> Explained:
    provider, name = seen.provider, seen.grant["provider"]
    told = f"{provider['suspended']}: {provider['detail']}" if provider["detail"] else str(provider["suspended"])
    since = f" since {seen.at(provider['suspended_at'])}" if provider["suspended_at"] else ""
    if provider["suspended"] in _REGISTRATION:
        why = f"The provider {name} refuses our own registration{since} ({told}); grant {seen.name} is untouched."
        person = f"check client_id and client secret of [providers.{name}], restart if they change, and take it up"
    else:
        why = f"Provider {name} is suspended{since}: it refused grant after grant ({told}), which is no fault of each."
        person = "see what the provider has against all of them, and take it up"
    probe = provider["not_before"]
    when = f"at {seen.at(probe)}" if probe and probe > seen.now else "within seconds"
    return Explained(
        why,
        f"One grant is tried {when}; the first success takes up all. {seen.token}",
        probe,
        person=person,
        command=f"token-broker retry --provider {name}",
        exit_code=FAILED,
    )


def _unknown(seen: _Seen) -> Explained:
    grace, at, name = seen.provider["reuse_grace"], seen.past["next_at"], seen.grant["provider"]
    why = (
        f"The answer to a token request for grant {seen.name} at {seen.at(seen.past['unknown_at'])} never came: its "
        "refresh token may be spent."
    )
    due = at is None or at <= seen.now
    when = "within seconds" if due or at is None else f"at {seen.at(at)}"
    again = f"It is presented again {when}"
    if grace == "forever":
        return Explained(
            why, f"{again}: {name} does not rotate, so that is safe. {seen.token}", at, exit_code=seen.heals
        )
    if grace and seen.now - seen.past["unknown_at"] < grace:
        how = f": {name} forgives that for {span(grace)}"
    elif due:
        how = ": its access token is about to end" if seen.living else ": nothing valid is left to lose"
    else:
        how = (
            f", just before its access token ends, since {name} may end a grant whose spent token comes again and "
            "nothing is lost by waiting"
        )
    return Explained(
        why,
        f"{again}{how}. If it was spent, a login is needed then. {seen.token}",
        at,
        person="nothing; to be on the safe side, log in again before that",
        command=seen.login,
        exit_code=seen.heals,
    )


def _waiting_for_provider(seen: _Seen) -> Explained:
    provider, name = seen.provider, seen.grant["provider"]
    failures, at = provider["failures"], provider["not_before"]
    if failures >= _HALF_CLOSED:
        why = (
            f"The provider {name} is ailing: {failures} token requests in a row brought nothing "
            f"({provider['detail'] or 'no detail'}), so it is asked one at a time, ever more rarely."
        )
    else:
        why = f"The provider {name} asked for a pause (Retry-After), and gets it."
    soonest = max(at or 0, seen.past["next_at"] or 0)
    when = f"not before {seen.at(soonest)}" if soonest > seen.now else "when its turn comes"
    return Explained(
        why,
        f"Grant {seen.name} is tried {when}; the first success opens the way for all. {seen.token}",
        soonest or None,
        exit_code=seen.heals,
    )


def _failing(seen: _Seen) -> Explained:
    at, failures = seen.past["next_at"], seen.grant["failures"]
    times = "once" if failures == 1 else f"{failures} times in a row"
    return Explained(
        f"The refresh of grant {seen.name} brought nothing {times}: "
        f"{meaning(seen.failure) if seen.failure else seen.said}.",
        f"{_tried(seen, at)} {seen.token}",
        at,
        exit_code=seen.heals,
    )


def _planned(seen: _Seen) -> Explained:
    at, by = seen.past["next_at"], seen.grant["reauthorize_by"]
    person, command = "nothing", None
    if by and by - seen.now < SOON:
        person, command = f"log in again by {seen.at(by)}: then the provider ends this grant", seen.login
    alive = f"Grant {seen.name} is alive." if seen.living else f"Grant {seen.name} waits for a token."
    return Explained(
        f"{alive} {seen.token}", _tried(seen, at, "refreshed"), at, person, command=command, exit_code=seen.heals
    )


def _tried(seen: _Seen, at: int | None, what: str = "tried again") -> str:
    if at is None or at <= seen.now - _OVERDUE:
        since = f" since {seen.at(at)}" if at else ""
        return f"It is overdue{since}: refreshing is slow or held up, `token-broker health` says by what."
    if at <= seen.now:
        return f"It is {what} within seconds."
    return f"It is {what} at {seen.at(at)}."


_OUTCOMES = {
    "refreshed": "a new token came",
    "unchanged": "the provider sent the same token once more",
    "unusable": "an answer came whose token cannot be used",
    "not_sent": "nothing was sent",
    "busy": "the provider asked to come later",
    "unknown": "it was sent, and no answer says what came of it",
    "dead": "the provider no longer accepts the refresh token",
    "registration": "the provider refused our registration",
    "rejected": "the provider rejected the request",
    "unreadable": "none of our sealing keys opens it",
    "logged_in": "a person logged in",
}
_DECIDED = {
    "kept": "kept",
    "postponed": "put off",
    "parked": "parked",
    "suspended": "the provider was suspended",
    "restored": "restored to Redis from a journal",
    "open": "its broker never said how it ended",
}


def meaning(attempt: Told) -> str:
    """What an attempt came to, with the provider's own words."""
    told, words = _said(attempt), _OUTCOMES.get(attempt["outcome"], attempt["outcome"])
    return f"{words} ({told})" if told else str(words)


def _said(attempt: Told) -> str:
    return ": ".join(text for text in (attempt["error"], attempt["error_description"]) if text)


def decision(attempt: Told, now: float) -> str:
    """What was decided after it."""
    decided = _DECIDED.get(attempt["decided"], attempt["decided"])
    if attempt["next_at"] is None:
        return str(decided)
    link = " until" if attempt["decided"] == "postponed" else ", next at"
    return f"{decided}{link} {clock(attempt['next_at'], now)}"
