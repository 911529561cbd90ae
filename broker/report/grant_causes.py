"""Why grants have no valid token, or are about to have none: the provider, the fence, or the grants themselves. Pure.

A grant counts for one cause: a parked one for its own, every other for what concerns its whole provider, if anything.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.report.cause import (
    Cause,
    Kind,
    are,
    capitalise,
    count_grants,
    list_ids,
    name_some,
    need,
    wait,
    were,
)
from broker.report.times import moment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import tzinfo

    from broker.report.facts import Facts, ProviderFacts, UrgentGrant

_FEW_FAILURES = 3
"""Fewer failures in a row, of a provider or a grant, are trouble only where a grant has no valid token."""
_DEAD = "reauthorization_required"
_NO_KEY = "sealed_with_missing_key"
_ALTERED = "tampered"
_REGISTRATION = frozenset({"invalid_client", "unauthorized_client", "incorrect_client_credentials"})


@dataclass(frozen=True, slots=True)
class GrantCauses:
    """Finds the causes; times in sentences are in *zone*, None: the local one."""

    facts: Facts
    zone: tzinfo | None

    def _at(self, at: int) -> str:
        return moment(at, self.facts.now, self.zone)

    def find(self, providers: Sequence[ProviderFacts]) -> Iterator[Cause]:
        """Return why grants have no valid token, or are about to have none."""
        facts = self.facts
        waiting: dict[str, list[UrgentGrant]] = defaultdict(list)
        parked: dict[str, list[UrgentGrant]] = defaultdict(list)
        for grant in facts.grants:
            (parked if grant.reason or grant.unreadable else waiting)[grant.provider].append(grant)
        if facts.fenced_until is not None:
            yield self._fenced(facts.fenced_until, providers, parked, waiting)
        for provider in providers:
            grants = waiting[provider.name]
            left = provider.unserved - sum(not grant.served for grant in parked[provider.name])
            if provider.configured:
                yield from self._parked(provider, parked[provider.name])
            else:  # nobody can log in or retry before it is back
                left = provider.unserved
            if (cause := self._of_provider(provider, left)) is not None:
                yield cause
            elif facts.fenced_until is None:
                yield from self._of_grants(provider, left, grants)

    def _fenced(
        self,
        until: int,
        providers: Sequence[ProviderFacts],
        parked: Mapping[str, Sequence[UrgentGrant]],
        waiting: Mapping[str, Sequence[UrgentGrant]],
    ) -> Cause:
        configured = [each for each in providers if each.configured]
        dead = sum(not grant.served for each in configured for grant in parked.get(each.name, ()))
        unserved = max(0, sum(each.unserved for each in configured) - dead)
        brief = f"refreshing pauses until {self._at(until)}, because Redis was restarted, failed over or restored"
        return Cause(
            "fenced",
            "recovering",
            "Redis was restarted, failed over or restored, and may have lost writes. Refreshing pauses while every "
            "broker sends Redis its journal.",
            brief,
            since=self.facts.fenced_since,
            grants=sum(each.grants for each in configured),
            unserved=unserved,
            next=f"Refreshing resumes at {self._at(until)}; what is overdue comes first.",
            next_at=until,
            examples=list_ids([grant for grants in waiting.values() for grant in grants]),
        )

    def _of_provider(self, provider: ProviderFacts, left: int) -> Cause | None:
        """Return the cause that concerns all grants of a provider."""
        if not provider.configured:
            return self._missing(provider, left) if provider.grants else None
        if provider.suspended:
            return self._suspended(provider, left)
        if provider.failures and (left > 0 or provider.failures >= _FEW_FAILURES):
            return self._failing_provider(provider, left)
        return None

    def _missing(self, provider: ProviderFacts, left: int) -> Cause:
        name, count = provider.name, count_grants(provider.grants)
        action = f"put [providers.{name}] back into the settings and run `token-broker reload`, or delete its grants"
        brief = f"provider {name} is not in the settings, so {count} {are(provider.grants)} not refreshed: {action}"
        return Cause(
            "provider_missing",
            "failing",
            f"Provider {name} is not in the settings of this broker, so {count} {are(provider.grants)} not refreshed.",
            brief,
            provider=name,
            since=provider.missing_since,
            grants=provider.grants,
            unserved=left,
            next="Nothing, unless another broker has it in its settings.",
            action=capitalise(action),
            examples=self._examples(name),
        )

    def _when(self, at: int | None) -> str:
        """Return when a request follows that is due *at* a time, or soon."""
        return f"at {self._at(at)}" if at and at > self.facts.now else "within seconds"

    def _suspended(self, provider: ProviderFacts, left: int) -> Cause:
        name, error = provider.name, provider.suspended
        said = f"{error}: {provider.detail}" if provider.detail else str(error)
        if error in _REGISTRATION:
            what = f"provider {name} refuses this broker's client registration"
            correct = f"correct client_id and client secret of [providers.{name}], run `token-broker reload`"
        else:
            what = f"provider {name} is suspended, because it refused grant after grant"
            correct = "find out why the provider refuses all of them"
        action = f"{correct}, and resume it: `token-broker retry --provider {name}`"
        probe = provider.not_before
        when = self._when(probe)
        return Cause(
            "provider_suspended",
            "failing",
            f"{capitalise(what)} ({said}): none of its grants is refreshed.",
            f"{what} ({said}): {action}",
            f"{what} ({error}): {action}",
            provider=name,
            since=provider.suspended_since,
            grants=provider.grants,
            unserved=left,
            next=f"The broker tries one grant {when}; the first success resumes all.",
            next_at=probe,
            action=capitalise(action),
            examples=self._examples(name),
        )

    def _failing_provider(self, provider: ProviderFacts, left: int) -> Cause:
        name, failures = provider.name, provider.failures
        at = max(provider.not_before or 0, provider.next_due or 0) or None
        times = "the last token request" if failures == 1 else f"{failures} token requests in a row"
        what = f"provider {name} is failing: {times} brought nothing"
        said = f"{what} ({provider.detail or 'no detail'})"
        when = self._when(at)
        return Cause(
            "provider_failing",
            "recovering",
            f"{capitalise(said)}.",
            f"{said}; the broker tries again {when}",
            f"{what}; the broker tries again {when}",
            provider=name,
            since=provider.failing_since,
            grants=provider.grants,
            unserved=left,
            next=f"The broker tries again {when}; the first success lets all others through.",
            next_at=at,
            examples=self._examples(name),
        )

    def _parked(self, provider: ProviderFacts, grants: Sequence[UrgentGrant]) -> Iterator[Cause]:
        dead = [grant for grant in grants if grant.reason == _DEAD]
        altered = [grant for grant in grants if grant.reason == _ALTERED]
        unread = [each for each in grants if each.reason == _NO_KEY or (each.unreadable and each not in altered)]
        refused = [grant for grant in grants if grant not in [*dead, *altered, *unread]]
        if altered:
            action = f"find out who writes Redis, then log in again: `token-broker explain {altered[0].grant_id}`"
            yield self._for_person(provider, altered, f"{were(len(altered))} altered in Redis", action)
        if dead:
            yield self._dead(provider, dead)
        if unread:
            action = (
                "put the old key back into sealing.keys_file, below the new one, restart the brokers, and retry them"
            )
            what = "sealed with a key that is no longer in sealing.keys_file"
            yield self._for_person(provider, unread, f"{are(len(unread))} {what}", action)
        if refused:
            what = f"{were(len(refused))} refused by provider {provider.name}"
            action = f"correct what the provider complains of, and retry: `token-broker explain {refused[0].grant_id}`"
            yield self._for_person(provider, refused, what, action)

    def _dead(self, provider: ProviderFacts, dead: Sequence[UrgentGrant]) -> Cause:
        count, unserved, name = self._counted(len(dead)), sum(not grant.served for grant in dead), provider.name
        command = f"token-broker login {dead[0].grant_id} --provider {name}"
        its = "its refresh token" if len(dead) == 1 else "their refresh tokens"
        what = f"{count} {need(len(dead))} a login: provider {name} no longer accepts {its}"
        return Cause(
            "login_needed",
            "login_needed",
            f"{capitalise(what)}.",
            f"log in again to {name_some(dead)}",
            public_brief=f"{count} {need(len(dead))} a login",
            provider=name,
            since=min((grant.unserved_since for grant in dead if grant.unserved_since), default=None),
            grants=len(dead),
            unserved=unserved,
            next=self._lost(dead),
            next_at=min((g.expires_at for g in dead if g.served and g.expires_at), default=None),
            action=f"Log in again, under the same id: `{command}`",
            public_action="Log in again",
            examples=list_ids(dead),
        )

    def _lost(self, dead: Sequence[UrgentGrant]) -> str:
        """Return what happens to grants that nobody refreshes any more."""
        ends = [grant.expires_at for grant in dead if grant.served and grant.expires_at]
        if not ends:
            return "Nothing by itself: callers get no token until somebody logs in."
        return f"Callers get the last token until it ends, the first one at {self._at(min(ends))}."

    def _for_person(self, provider: ProviderFacts, grants: Sequence[UrgentGrant], what: str, action: str) -> Cause:
        count = self._counted(len(grants))
        return Cause(
            "parked",
            "failing",
            f"{capitalise(f'{count} {what}')}, so the broker parked {'it' if len(grants) == 1 else 'them'}.",
            f"{name_some(grants)} {what}: {action}",
            public_brief=f"{count} {what}",
            provider=provider.name,
            since=min((grant.unserved_since for grant in grants if grant.unserved_since), default=None),
            grants=len(grants),
            unserved=sum(not grant.served for grant in grants),
            next="Nothing, until somebody retries.",
            action=capitalise(action),
            public_action=capitalise(action.partition(": `")[0]),
            examples=list_ids(grants),
        )

    def _of_grants(self, provider: ProviderFacts, left: int, grants: Sequence[UrgentGrant]) -> Iterator[Cause]:
        """Return the causes of grants that are late, and of those whose refresh fails; *left* have no valid token."""
        late = [each for each in grants if not each.served and not each.failures]
        failing = [each for each in grants if each.failures and (not each.served or each.failures >= _FEW_FAILURES)]
        bare = sum(not each.served for each in failing)
        if late or (left > 0 and not failing):
            yield self._waiting(provider, left - bare, late)
        if failing:
            yield self._waiting(provider, bare if late else left, failing)  # there may be more than were read

    def _waiting(self, provider: ProviderFacts, left: int, grants: Sequence[UrgentGrant]) -> Cause:
        """Return the cause of grants that the broker refreshes as soon as it can: they all fail, or none does."""
        name, now = provider.name, self.facts.now
        bare = [grant for grant in grants if not grant.served]
        failing = [grant for grant in grants if grant.failures]
        at = min((grant.next_at for grant in (bare or grants) if grant.next_at), default=None)
        when = f"at {self._at(at)}" if at and at > now else "within seconds"
        if failing:
            rest = f"at provider {name} fails; the broker tries again {when}"
            kind: Kind = "failing"
            what = f"the refresh of {count_grants(len(failing))} at provider {name} fails"
            brief = f"the refresh of {name_some(failing)} {rest}"
        else:
            kind = "expired"
            first = bare and all(grant.expires_at is None for grant in bare)
            awaited = "its first token" if left == 1 else "their first tokens"
            what = f"{count_grants(left)} at provider {name} {wait(left)} for {awaited if first else 'a late refresh'}"
            brief = f"{what}, which {'comes' if left == 1 or not first else 'come'} {when}"
        return Cause(
            kind,
            "recovering",
            f"{capitalise(what)}.",
            brief,
            public_brief=f"{what}; the broker tries again {when}" if failing else "",
            provider=name,
            since=min((grant.unserved_since for grant in bare if grant.unserved_since), default=None),
            grants=max(left, len(grants)),
            unserved=max(0, left),
            next=f"The broker {'tries again' if failing else 'refreshes'} {when}.",
            next_at=at,
            examples=list_ids(failing or bare or grants),
        )

    def _counted(self, n: int) -> str:
        """Return a number of grants, which may be more than were read."""
        return f"at least {count_grants(n)}" if self.facts.more_grants else count_grants(n)

    def _examples(self, provider: str) -> tuple[str, ...]:
        return list_ids([grant for grant in self.facts.grants if grant.provider == provider and not grant.reason])
