"""Why a grant is in its state, and what happens next, in sentences. Pure: what the API answered, and `now`.

`explain` goes from what concerns nobody else (no such grant) over what a person must do to what the broker repairs by
itself; the first that holds is the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from broker.report.attempts import outcome
from broker.report.grant_facts import FAILED, FINE, LOG_IN, TRY_AGAIN, GrantFacts
from broker.report.times import moment, span

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import tzinfo

    from broker.report.facts import StoreTrouble

EXITS = {
    FINE: "nothing to do",
    FAILED: "a person must correct something",
    TRY_AGAIN: "no token now; it recovers by itself",
    LOG_IN: "a person must log in",
}
"""What `Explanation.exit_code` may be."""
_OVERDUE_AFTER = 30
"""Seconds past its due time after which a grant counts as overdue."""
_HALF_CLOSED = 3
"""Failures in a row after which a provider gets one request at a time."""
_REGISTRATION = frozenset({"invalid_client", "unauthorized_client", "incorrect_client_credentials"})


@dataclass(frozen=True, slots=True)
class Explanation:
    """A grant in words; *exit_code* is what a script should go by."""

    why: str
    """Its state, and the reason."""
    next: str = ""
    """What happens next if nobody does anything; empty where there is no grant."""
    next_at: int | None = None
    """When that is (epoch seconds), where it is known."""
    person: str = "nothing"
    """What a person must do, or can do."""
    command: str | None = None
    """The command that does it."""
    exit_code: Literal[0, 1, 75, 77] = FINE


def explain(
    name: str,
    grant: Mapping[str, Any] | None,
    past: Mapping[str, Any] | None,
    provider: Mapping[str, Any] | None,
    now: float,
    *,
    zone: tzinfo | None = None,
) -> Explanation:
    """Return why the grant *name* is in its state.

    Args:
        name: Its id.
        grant: The answer of `GET /v1/grants/{id}`; None where there is no such grant.
        past: The answer of `GET /v1/grants/{id}/attempts`; None where nothing is known.
        provider: Its provider in `GET /v1/providers`; None where it is not there.
        now: Epoch seconds.
        zone: Of times in sentences; None: the local one.
    """
    if grant is None or past is None:
        return _absent(name, past, now, zone)
    facts = GrantFacts(name, grant, past, provider or {}, now, zone=zone)
    if grant["unreadable"] or grant["reason"] in {"sealed_with_missing_key", "tampered"}:
        return _unreadable(facts)
    if not facts.provider.get("kind"):
        return _no_provider(facts)  # also of a parked grant: nobody can log in or retry before it is back
    if grant["state"] == "parked":
        return _dead(facts) if grant["reason"] == "reauthorization_required" else _rejected(facts)
    if grant["state"] == "leased":
        return _leased(facts)
    if past["fenced_until"]:
        return _fenced(facts)
    if facts.provider["suspended"]:
        return _suspended(facts)
    if past["unknown_at"]:
        return _unknown(facts)
    if (facts.provider["not_before"] or 0) > now or facts.provider["failures"] >= _HALF_CLOSED:
        return _waiting_for_provider(facts)
    return _failing(facts) if grant["failures"] else _planned(facts)


def explain_from_memory(
    name: str, store: StoreTrouble, expires_at: int | None, now: float, *, zone: tzinfo | None = None
) -> Explanation:
    """Return what is known of a grant while Redis cannot be used.

    Args:
        name: Its id.
        store: Why Redis cannot be used.
        expires_at: When its token in memory ends (epoch seconds); None: memory holds none.
        now: Epoch seconds.
        zone: Of times in sentences; None: the local one.
    """
    since = f" since {moment(store.since, now, zone)}" if store.since else ""
    valid = expires_at is not None and expires_at > now
    if expires_at is None:
        token = "This broker holds no token of it in memory, so callers get none here."
    elif valid:
        token = f"The token in memory is served until {moment(expires_at, now, zone)}."
    else:
        token = f"The token in memory expired at {moment(expires_at, now, zone)}, so callers get none."
    away = store.kind == "redis"
    return Explanation(
        f"{store.what.rstrip('.')}{since}, so the state of grant {name} is not known: whether it exists, what its last "
        f"token requests came to, and when it is refreshed next. {token}",
        "The broker asks Redis again every second, and goes on by itself."
        if away
        else "Nothing, until the store of this broker is there again.",
        expires_at if valid else None,
        person=store.cure,
        exit_code=TRY_AGAIN if away else FAILED,
    )


def _absent(name: str, past: Mapping[str, Any] | None, now: float, zone: tzinfo | None) -> Explanation:
    if past is not None and past["forgotten_at"]:
        return Explanation(
            f"Grant {name} was logged out and forgotten at {moment(past['forgotten_at'], now, zone)}.",
            "Nothing: no broker refreshes it, and no journal restores it.",
            person="log in, if it is still needed",
            command=f"token-broker login {name} --provider PROVIDER",
            exit_code=FAILED,
        )
    if past is not None and past.get("lost_at"):
        return Explanation(
            f"Redis lost the data of grant {name}: that was found at {moment(past['lost_at'], now, zone)}.",
            "A broker whose journal holds the last answer to it restores it within seconds of its start.",
            person="start all brokers that were stopped; if the grant does not come back, log in",
            command=f"token-broker login {name} --provider PROVIDER",
            exit_code=FAILED,
        )
    return Explanation(
        f"There is no grant {name}, and none was deleted in the last month.",
        person="compare the id with the existing ones, or log in",
        command="token-broker status",
        exit_code=FAILED,
    )


def _unreadable(facts: GrantFacts) -> Explanation:
    if facts.grant["reason"] == "tampered":
        return _tampered(facts)
    return Explanation(
        f"Grant {facts.name} was sealed with a key that is no longer in sealing.keys_file: no broker can open it.",
        "Nothing: no broker serves or refreshes its token until the key is back.",
        person="put the old key back into the key file, below the new one, restart the brokers, and retry the grant",
        command=facts.retry_command,
        exit_code=FAILED,
    )


def _tampered(facts: GrantFacts) -> Explanation:
    return Explanation(
        f"What Redis holds of grant {facts.name} was altered ({facts.failure_detail}).",
        "Nothing: no broker sends or serves any of it.",
        person="find out who writes Redis, then log in again",
        command=facts.login_command,
        exit_code=LOG_IN,
    )


def _dead(facts: GrantFacts) -> Explanation:
    then = "Then callers get 409." if facts.has_valid_token else "Callers get 409."
    return Explanation(
        f"The provider {facts.grant['provider']} no longer accepts the refresh token of grant {facts.name} "
        f"({facts.failure_detail}).{facts.verdict_sentence}",
        f"Nothing: no broker refreshes it any more. {facts.token_sentence} {then}",
        facts.valid_until,
        person="log in again, under the same id; if the provider accepts it again (the user was enabled again), "
        f"`{facts.retry_command}` sends one more request",
        command=facts.login_command,
        exit_code=LOG_IN,
    )


def _rejected(facts: GrantFacts) -> Explanation:
    return Explanation(
        f"The provider {facts.grant['provider']} rejected the refresh of grant {facts.name} ({facts.failure_detail}), "
        f"so the broker parked it.{facts.verdict_sentence}",
        f"Nothing: no broker refreshes it until somebody retries it. {facts.token_sentence}",
        facts.valid_until,
        person="correct what the provider complains of (scope, settings of the provider), and retry the grant",
        command=facts.retry_command,
        exit_code=FAILED,
    )


def _no_provider(facts: GrantFacts) -> Explanation:
    name = facts.grant["provider"]
    return Explanation(
        f"The provider {name} of grant {facts.name} is not in the settings of the broker that answered.",
        f"Nothing, unless another broker has it in its settings. {facts.token_sentence}",
        facts.valid_until,
        person=f"put [providers.{name}] back into the settings and run `token-broker reload`, or log in at another "
        "provider",
        command=f"token-broker login {facts.name} --provider PROVIDER",
        exit_code=FAILED,
    )


def _leased(facts: GrantFacts) -> Explanation:
    ends, under_way = facts.past["next_at"], facts.past["under_way"]
    until = f" Its lease ends at {facts.at(ends)}; a request still open then has an unknown outcome." if ends else ""
    if under_way is None:
        why = f"A broker holds grant {facts.name} for a logout."
        return Explanation(why, f"The broker deletes it, or it is due again at the end of the lease.{until}", ends)
    return Explanation(
        f"Broker {under_way['replica'] or '(unnamed)'} has had a token request for grant {facts.name} under way since "
        f"{facts.at(under_way['at'])}.",
        f"The broker records its outcome. {facts.token_sentence}{until}",
        ends,
        exit_code=facts.waiting_exit_code,
    )


def _fenced(facts: GrantFacts) -> Explanation:
    opens = facts.past["fenced_until"]
    return Explanation(
        "Redis was restarted, failed over or restored, and may have lost writes. Refreshing pauses while every broker "
        "sends Redis its journal.",
        f"Refreshing resumes at {facts.at(opens)}. {facts.token_sentence}",
        opens,
        exit_code=facts.waiting_exit_code,
    )


def _suspended(facts: GrantFacts) -> Explanation:
    provider, name = facts.provider, facts.grant["provider"]
    error = f"{provider['suspended']}: {provider['detail']}" if provider["detail"] else str(provider["suspended"])
    since = f" since {facts.at(provider['suspended_at'])}" if provider["suspended_at"] else ""
    failure = facts.last_failure or {}
    if provider["suspended"] in _REGISTRATION or failure.get("outcome") == "registration":
        why = (
            f"The provider {name} has refused this broker's client registration{since} ({error}); grant {facts.name} "
            "is untouched."
        )
        person = f"correct client_id and client secret of [providers.{name}], run `token-broker reload`, and resume it"
    else:
        why = (
            f"Provider {name} is suspended{since}: it refused grant after grant ({error}), so the cause is not a "
            "single grant."
        )
        person = (
            f"find out why the provider refuses all of them (client_id and client secret of [providers.{name}] among "
            "the causes), and resume it"
        )
    probe = provider["not_before"]
    when = f"at {facts.at(probe)}" if probe and probe > facts.now else "within seconds"
    return Explanation(
        why,
        f"The broker tries one grant {when}; the first success resumes all. {facts.token_sentence}",
        probe,
        person=person,
        command=f"token-broker retry --provider {name}",
        exit_code=FAILED,
    )


def _unknown(facts: GrantFacts) -> Explanation:
    grace, at, name = facts.provider["reuse_grace"], facts.past["next_at"], facts.grant["provider"]
    why = (
        f"The response to a token request for grant {facts.name} at {facts.at(facts.past['unknown_at'])} never came: "
        "its refresh token may be spent."
    )
    due = at is None or at <= facts.now
    when = "within seconds" if due or at is None else f"at {facts.at(at)}"
    again = f"The broker presents it again {when}"
    if grace == "forever":
        next_step = f"{again}: {name} does not rotate, so that is safe. {facts.token_sentence}"
        return Explanation(why, next_step, at, exit_code=facts.waiting_exit_code)
    if grace and facts.now - facts.past["unknown_at"] < grace:
        reason = f": {name} accepts a spent token again for {span(grace)}"
    elif due:
        reason = (
            ": its access token is about to expire" if facts.has_valid_token else ": no valid token is left to lose"
        )
    else:
        reason = (
            f", just before its access token expires: {name} may end a grant whose spent token comes again, and "
            "waiting loses nothing"
        )
    return Explanation(
        why,
        f"{again}{reason}. If it was spent, a login is needed then. {facts.token_sentence}",
        at,
        person="nothing; to be on the safe side, log in again before that",
        command=facts.login_command,
        exit_code=facts.waiting_exit_code,
    )


def _waiting_for_provider(facts: GrantFacts) -> Explanation:
    provider, name = facts.provider, facts.grant["provider"]
    failures, at = provider["failures"], provider["not_before"]
    if failures >= _HALF_CLOSED:
        why = (
            f"The provider {name} is failing: {failures} token requests in a row brought nothing "
            f"({provider['detail'] or 'no detail'}), so it gets one request at a time, at growing intervals."
        )
    else:
        why = f"The provider {name} asked for a pause (Retry-After), and the broker keeps to it."
    soonest = max(at or 0, facts.past["next_at"] or 0)
    when = f"not before {facts.at(soonest)}" if soonest > facts.now else "when its turn comes"
    return Explanation(
        why,
        f"The broker tries grant {facts.name} {when}; the first success lets all others through. "
        f"{facts.token_sentence}",
        soonest or None,
        exit_code=facts.waiting_exit_code,
    )


def _failing(facts: GrantFacts) -> Explanation:
    at, failures, failure = facts.past["next_at"], facts.grant["failures"], facts.last_failure
    times = "once" if failures == 1 else f"{failures} times in a row"
    return Explanation(
        f"The refresh of grant {facts.name} failed {times}: {outcome(failure) if failure else facts.failure_detail}."
        f"{facts.verdict_sentence}",
        f"{_next_attempt(facts, at, 'tries')} {facts.token_sentence}",
        at,
        exit_code=facts.waiting_exit_code,
    )


def _planned(facts: GrantFacts) -> Explanation:
    at, by = facts.past["next_at"], facts.grant["reauthorize_by"]
    person, command = "nothing", None
    if by and facts.grant["reauthorize_soon"]:  # an idle limit moves with each refresh, and is not near its end
        person = f"log in again by {facts.at(by)}: then the provider ends this grant"
        command = facts.login_command
    state = "is alive" if facts.has_valid_token else "waits for a token"
    return Explanation(
        f"Grant {facts.name} {state}. {facts.token_sentence}",
        _next_attempt(facts, at, "refreshes"),
        at,
        person=person,
        command=command,
        exit_code=facts.waiting_exit_code,
    )


def _next_attempt(facts: GrantFacts, at: int | None, verb: str) -> str:
    again = " again" if verb == "tries" else ""
    if at is None or at <= facts.now - _OVERDUE_AFTER:
        since = f" since {facts.at(at)}" if at else ""
        return f"It is overdue{since}: refreshing is slow or blocked, and `token-broker health` shows the cause."
    if at <= facts.now:
        return f"The broker {verb} it{again} within seconds."
    return f"The broker {verb} it{again} at {facts.at(at)}."
