"""Every kind that is shipped, at an emulator of its provider that was made from a description of its own.

A broker with nothing but kind, client id and secret (and what a template needs) asks `https://` at the provider's own
hosts. What an emulator refuses is shown by test_emulator.py.
"""

from __future__ import annotations

import time

import pytest

from broker.providers import authorization_url
from broker.settings import catalogue
from tests.catalogue.conftest import Meet, Meeting, dialect_of, settings_of
from tests.catalogue.demands import Demands, all_demands
from tests.catalogue.exact_client import CALLBACK, emulator_of
from tests.steps import stored_refresh_token
from tests.waiting import until

each_kind = pytest.mark.parametrize("demands", [pytest.param(one, id=kind) for kind, one in all_demands().items()])
ROUNDS = 5
"""Refreshes of a dead grant after which it must be parked, and one more."""
ALIKE = 5
"""Seconds by which a time may differ from the one expected."""


@each_kind
async def test_login_two_refreshes_and_logout(meet: Meet, demands: Demands) -> None:
    """All succeed without one refusal; lifetimes, members and the account are as the provider says them."""
    async with meet(demands) as here:
        await here.log_in("g1")
        (granted,) = here.emulator.grants
        for _ in range(2):
            await assert_as_described(here, "g1")
            before = await here.generations("g1")
            await here.fall_due("g1")
            await here.refreshed(before, "g1")
        await assert_as_described(here, "g1")
        assert await stored_refresh_token(here.broker, "g1") == granted.refresh
        assert (await here.broker.token("g1"))["access_token"] == granted.access
        assert here.emulator.requests == {"exchange": 1, "refresh": 2}
        _, logged_out, _ = await here.broker.ask("DELETE", "/v1/grants/g1")
        assert (logged_out["revoked"], granted.dead is not None) == (knows_logout(demands),) * 2, logged_out
        assert (here.emulator.refusals, here.provider.strays, here.emulator.reuse) == ([], [], 0)


def knows_logout(demands: Demands) -> bool:
    """Return whether the kind knows where to log out; with discovery it knows what the provider knows."""
    dialect = dialect_of(settings_of(demands))
    return bool(dialect.revocation_endpoint or dialect.logout_endpoint or (dialect.discovery and demands.at.revoke))


async def assert_as_described(here: Meeting, grant: str) -> None:
    """Check what the broker makes of the last answer."""
    demands = here.emulator.demands
    state, token = await here.state(grant), await here.broker.token(grant)
    life = state["expires_at"] - state["issued_at"]
    if demands.tokens.at_most_every is not None:
        assert state["refresh_at"] - state["issued_at"] >= demands.tokens.at_most_every
    elif not demands.tokens.default_lifetime:
        assert life == pytest.approx(demands.tokens.lifetime, abs=ALIKE)
    if demands.tokens.at_least_every is not None:
        assert state["refresh_at"] - state["issued_at"] <= demands.tokens.at_least_every
    if demands.tokens.earliest is not None:
        assert state["refresh_at"] >= state["expires_at"] - demands.tokens.earliest
    if demands.tokens.ends is not None:
        assert state["reauthorize_by"] is not None
        assert state["reauthorize_by"] - time.time() <= demands.tokens.ends + ALIKE
    assert {name for name in demands.kept if name not in token} == set()
    if demands.account is not None:
        assert state["account"] is not None
        assert state["account"]["id"] in demands.account.ids


@each_kind
async def test_dead_grants(meet: Meet, demands: Demands) -> None:
    """A grant whose refresh token is dead is parked as dead and named; those beside it are refreshed."""
    dead = [f"dead{number}" for number in range(len(demands.answers.dead))]
    async with meet(demands) as here:
        await here.log_in(*dead, "live")
        for granted, reply in zip(here.emulator.grants, demands.answers.dead, strict=False):
            granted.dead = reply
        for _ in range(ROUNDS):
            # Others succeed before and after: where a refusal does not say whom it means, that decides.
            before = await here.generations("live")
            await here.fall_due("live")
            await here.refreshed(before, "live")
            if not (left := {*dead} - {*await here.parked(*dead)}):
                break
            await here.refused(*left, beside="live")
        assert await here.parked(*dead, "live") == dict.fromkeys(dead, "reauthorization_required")
        assert await here.suspended() is None
        named = {event["grant_id"] for event in here.broker.events("grant.parked")}
        assert named == {*dead}


@each_kind
async def test_busy_minute(meet: Meet, demands: Demands) -> None:
    """While the provider is busy nobody is parked, whatever it says; afterwards everybody is refreshed."""
    grants = ("g1", "g2")
    async with meet(demands) as here:
        await here.log_in(*grants)
        for busy in demands.answers.busy:
            here.emulator.busy = busy
            await here.refused(*grants)
            # A server that failed may have spent the refresh token all the same.
            understood = {"busy", "unknown"} if busy.status >= 500 else {"busy"}
            assert {(await here.state(grant))["last"]["outcome"] for grant in grants} <= understood
            assert (await here.parked(*grants), await here.suspended()) == ({}, None)
            here.emulator.busy = None
            before = await here.generations(*grants)
            await here.resume()
            await here.fall_due(*grants)
            await here.refreshed(before, *grants)


@each_kind
async def test_wrong_secret(meet: Meet, demands: Demands) -> None:
    """A secret that no longer fits suspends the provider and parks nobody; once it fits, all goes on by itself."""
    grants = ("g1", "g2", "g3")
    async with meet(demands) as here:
        await here.log_in(*grants)
        secret, here.emulator.client_secret = here.emulator.client_secret, "another-secret-0123456789"
        before = await here.generations(*grants)
        await here.fall_due(*grants)
        await until(here.suspended)
        assert await here.parked(*grants) == {}
        here.emulator.client_secret = secret
        await here.end_pause(*grants)
        await here.refreshed(before, *grants)
        assert await here.suspended() is None


@pytest.mark.parametrize("kind", [kind for kind, one in all_demands().items() if " " in (one.given.scope or "")])
def test_scope_of_several_words(kind: str) -> None:
    """A scope of several words, written with blanks, goes to the provider as it separates them."""
    demands = all_demands()[kind]
    dialect = dialect_of({**settings_of(demands), "scope": demands.given.scope})
    emulator = emulator_of(demands)
    url = authorization_url(
        dialect,
        demands.at.authorize,
        redirect_uri=dialect.redirect_uri or CALLBACK,
        state="a-state",
        code_challenge="a-challenge" if dialect.pkce else None,
    )
    assert emulator.authorize(url).startswith(CALLBACK)


@each_kind
def test_never_more_than_the_provider_allows(demands: Demands) -> None:
    """A kind promises no longer grace than its provider gives, and knows where a refresh ends the old access token."""
    dialect = dialect_of(settings_of(demands))
    if demands.tokens.old_access == "dies":
        assert dialect.old_token == "dies"
    if demands.tokens.rotates and demands.tokens.spent in {"dead", "family"}:
        assert dialect.reuse_grace_ms is not None
        assert dialect.reuse_grace_ms <= demands.tokens.grace * 1000


def test_every_kind_is_described() -> None:
    """A kind that is shipped has a description here, and what is described is shipped."""
    assert {*catalogue.names()} - {*catalogue.BASES} == set(all_demands())
