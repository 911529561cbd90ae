"""The emulators refuse what their provider would refuse: only so can the tests of the catalogue fail."""

from __future__ import annotations

import pytest

from tests.catalogue.asked import Refused
from tests.catalogue.demands import Demands, all_demands
from tests.catalogue.exact_client import Departure, ExactClient, departures, emulator_of

each_kind = pytest.mark.parametrize("demands", [pytest.param(one, id=kind) for kind, one in all_demands().items()])


@each_kind
def test_what_is_demanded_is_accepted(demands: Demands) -> None:
    """Whoever does what the description says logs in and refreshes twice."""
    client = ExactClient(emulator_of(demands))
    _, tokens = client.log_in()
    refresh_token = tokens["refresh_token"]
    access = [tokens["access_token"]]
    for _ in range(2):
        client.emulator.age()
        _, tokens = client.refresh(refresh_token)
        access.append(tokens["access_token"])
        assert (tokens.get("refresh_token", refresh_token) != refresh_token) == demands.tokens.rotates
        refresh_token = tokens.get("refresh_token", refresh_token)
    assert len(set(access)) == 3
    assert client.emulator.refusals == []


@each_kind
def test_every_departure_is_refused(demands: Demands) -> None:
    """A missing, wrong or forbidden parameter, header, body, method or secret ends the login or the refresh."""
    accepted = [departure.name for departure in departures(demands) if _gets_through(demands, departure)]
    assert accepted == []


def _gets_through(demands: Demands, departure: Departure) -> bool:
    """Return whether a client that departs from what is demanded comes to a refreshed token all the same."""
    client = ExactClient(emulator_of(demands), departure)
    try:
        _, tokens = client.log_in()
    except Refused:
        return False
    if "refresh_token" not in tokens:
        return False
    client.emulator.age()
    return "access_token" in client.refresh(tokens["refresh_token"])[1]


@each_kind
def test_spent_and_dead_refresh_tokens(demands: Demands) -> None:
    """A spent refresh token meets what the description says; a dead one meets each of the refusals listed."""
    client = ExactClient(emulator_of(demands))
    first = client.log_in()[1]["refresh_token"]
    client.emulator.age()
    second = client.refresh(first)[1].get("refresh_token", first)
    tokens = demands.tokens
    if tokens.rotates:
        client.emulator.age()
        assert bool(client.refresh(first)[1]) == (tokens.spent in {"alive", "until next"} or tokens.grace > 0)
        client.emulator.grants[0].spent[first] -= tokens.grace
        client.emulator.age()
        assert bool(client.refresh(first)[1]) == (tokens.spent in {"alive", "until next"})
        client.emulator.age()
        assert bool(client.refresh(second)[1]) == (tokens.spent != "family")
        assert client.emulator.reuse
    for dead in demands.answers.dead:
        client.emulator.grants[0].dead = dead
        reply, tokens_now = client.refresh(second)
        assert (reply.status, tokens_now) == (dead.status, {})


@each_kind
def test_busy_and_early(demands: Demands) -> None:
    """While it is busy nothing is answered; where a refresh may come too early, it is refused as if it were busy."""
    client = ExactClient(emulator_of(demands))
    refresh_token = client.log_in()[1]["refresh_token"]
    if demands.tokens.earliest is not None:
        assert client.refresh(refresh_token)[0] == demands.answers.busy[0]
    client.emulator.age()
    for busy in demands.answers.busy:
        client.emulator.busy = busy
        assert client.refresh(refresh_token) == (busy, {})
    client.emulator.busy = None
    assert client.refresh(refresh_token)[1]["access_token"]
