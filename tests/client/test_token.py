"""From a grant's id to a token, and what happens to it while the broker stops and starts."""

from __future__ import annotations

import asyncio
import time

import pytest

from broker.client import (
    Broker,
    BrokerUnreachable,
    InvalidConfiguration,
    InvalidRequest,
    NotAllowed,
    ReauthorizationRequired,
    TokenUnavailable,
    UnknownGrant,
    UnknownKey,
)
from broker.client.follow import LongPolls, end
from broker.testing import FakeBroker
from tests.waiting import until


async def test_the_first_token(client: Broker, fake: FakeBroker) -> None:
    """The token is read once, with everything the provider sent; from then on it comes from memory."""
    grant = client.grant("g1")
    await grant.ready(timeout=5)
    token = await grant.token()
    assert token.value == fake.grants["g1"].token
    assert token.extra == {"httpsBaseUrl": {"hostname": "api.example.com"}}
    assert abs(token.expires_at - time.time() - 3600) < 3
    assert token.generation == fake.grants["g1"].generation
    assert client.grant("g1") is grant
    for _ in range(100):
        assert await grant.token() is token
    await asyncio.sleep(0.1)
    assert fake.count_reads("g1") == 2, "one read and one long poll"


async def test_a_hundred_callers_share_one_request(client: Broker, fake: FakeBroker) -> None:
    """Concurrent callers share one request."""
    grant = client.grant("g1")
    tokens = await asyncio.gather(*(grant.token() for _ in range(100)))
    assert {token.value for token in tokens} == {fake.grants["g1"].token}
    plain = [asked for asked in fake.requests if "If-None-Match" not in asked.headers]
    assert len(plain) == 1


async def test_the_next_token_comes_by_itself(client: Broker, fake: FakeBroker) -> None:
    """A rotation reaches a client that holds the old token without a call."""
    grant = client.grant("g1")
    await grant.token()
    await asyncio.sleep(0.05)
    rotated = fake.grants["g1"].rotate()

    async def there() -> bool:
        return (await grant.token()).value == rotated

    await until(there, 2)
    assert len([asked for asked in fake.requests if "If-None-Match" not in asked.headers]) == 1


async def test_a_brokers_restart_is_invisible(client: Broker, fake: FakeBroker) -> None:
    """While the token is valid nobody notices that the broker is down, and the next one arrives when it is up again."""
    grant = client.grant("g1")
    token = await grant.token()
    fake.down()
    for _ in range(50):
        assert await grant.token(timeout=0) is token
        await asyncio.sleep(0.01)
    rotated = fake.grants["g1"].rotate()
    fake.up()

    async def there() -> bool:
        return (await grant.token()).value == rotated

    await until(there, 5)


@pytest.mark.parametrize("how", ["down", "hanging"])
async def test_the_last_seconds_without_a_broker(client: Broker, fake: FakeBroker, how: str) -> None:
    """In its last seconds the broker is asked; if it is down, the token is returned while it is valid."""
    fake.grants["g1"].rotate(lifetime=3)
    grant = client.grant("g1")
    token = await grant.token()
    if how == "down":
        fake.down()
    else:
        fake.hanging = True
    while token.remaining() > 0.05:
        assert await grant.token() is token
        assert token.remaining() > 0
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    with pytest.raises(TokenUnavailable):
        await grant.token(timeout=0.3)
    fake.hanging = False
    fake.up()
    assert (await grant.token()).value == fake.grants["g1"].token


async def test_a_start_before_the_broker(client: Broker, fake: FakeBroker) -> None:
    """`ready` waits for a broker that is still starting, and says so when its time is up."""
    fake.down()
    grant = client.grant("g1")
    with pytest.raises(BrokerUnreachable, match=f"no broker responds at {fake.url}"):
        await grant.ready(timeout=0.3)
    waiting = asyncio.create_task(grant.ready(timeout=10))
    await asyncio.sleep(0.3)
    fake.up()
    await waiting


async def test_min_ttl(client: Broker, fake: FakeBroker) -> None:
    """More lifetime than the held token has is requested; more than any token has is an error."""
    fake.grants["g1"].rotate(lifetime=100)
    grant = client.grant("g1")
    token = await grant.token(min_ttl=50)
    assert await grant.token(min_ttl=50) is token
    fake.grants["g1"].lifetime = 200
    longer = await grant.token(min_ttl=150)
    assert longer.remaining() > 150
    with pytest.raises(InvalidRequest, match="ask for less"):
        await grant.token(min_ttl=1000)
    fake.grants["g1"].refreshable = False
    with pytest.raises(NotAllowed):
        await grant.token(min_ttl=199.9)
    assert (await grant.token()).value == longer.value


async def test_errors_say_what_to_do(fake: FakeBroker) -> None:
    """Each error of the broker is its own exception, raised at once."""
    async with Broker(fake.url, "other-key") as stranger:
        with pytest.raises(UnknownKey, match="caller new"):
            await stranger.grant("g1").token()
    async with Broker(fake.url, fake.key) as client:
        with pytest.raises(UnknownGrant, match="g2: no such grant"):
            await client.grant("g2").token()
        fake.grants["g1"].readable = False
        with pytest.raises(NotAllowed):
            await client.grant("g1").token()
        fake.grants["g1"].readable = True
        fake.grants["g1"].kill()
        with pytest.raises(ReauthorizationRequired) as dead:
            await client.grant("g1").ready()
        assert dead.value.login_url == f"{fake.url}/#search=g1"
        assert dead.value.grant_id == "g1"
        fake.grants["g1"].log_in()
        await client.grant("g1").ready()


async def test_nothing_to_be_had(client: Broker, fake: FakeBroker) -> None:
    """While the provider is down and no token is valid, the broker waits too, and the error says when to retry."""
    grant = fake.grants["g1"]
    grant.provider_up = False
    grant.expire()
    began = time.monotonic()
    with pytest.raises(TokenUnavailable) as refused:
        await client.grant("g1").token(timeout=2)
    assert 0.9 < time.monotonic() - began < 2
    assert refused.value.retry_after == 5
    waiting = asyncio.create_task(client.grant("g1").token(timeout=10))
    await asyncio.sleep(0.2)
    grant.provider_up = True
    assert (await waiting).value == grant.token


async def test_a_forgotten_grant(client: Broker, fake: FakeBroker) -> None:
    """Once the broker has logged a grant out, its token is no longer returned."""
    grant = client.grant("g1")
    await grant.token()
    await asyncio.sleep(0.05)
    fake.forget("g1")

    async def gone() -> bool:
        try:
            await grant.token()
        except UnknownGrant:
            return True
        return False

    await until(gone, 3)


async def test_a_401_with_a_newer_token_in_hand(client: Broker, fake: FakeBroker) -> None:
    """The token was rotated while a request was in flight: nothing is reported, and the newer one is there."""
    grant = client.grant("g1")
    old = await grant.token()
    await asyncio.sleep(0.05)
    rotated = fake.grants["g1"].rotate()
    await until(lambda: (held := grant.at_hand()) and held.value == rotated, 2)
    newer = await grant.report(old)
    assert newer is not None
    assert newer.value == rotated
    assert {asked.method for asked in fake.requests} == {"GET"}


async def unfollowed(client: Broker) -> None:
    """Stop following every grant, as after ten minutes without use."""
    assert isinstance(client.following, LongPolls)
    await end(client.following._tasks.values())


async def test_who_was_idle_looks_first(client: Broker, fake: FakeBroker) -> None:
    """If the grant was not followed for a while the held token may be old: one request, then as before."""
    grant = client.grant("g1")
    await grant.token()
    await unfollowed(client)
    rotated = fake.grants["g1"].rotate()
    assert (await grant.token()).value == rotated
    assert client.following.has(grant)
    await unfollowed(client)
    await asyncio.sleep(1)
    fake.down()
    assert (await grant.token()).value == rotated
    assert client.following.has(grant)
    fake.up()
    await unfollowed(client)
    await asyncio.sleep(1)
    fake.forget("g1")
    with pytest.raises(UnknownGrant):
        await grant.token()


async def test_nobody_follows_what_is_not_used(
    client: Broker, fake: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unused grant costs the broker no connection, until it is used again."""
    grant = client.grant("g1")
    await grant.token()
    await until(lambda: fake.count_reads("g1") == 2)
    monkeypatch.setattr("broker.client.follow.IDLE", 0.1)
    await asyncio.sleep(0.2)
    assert client.following.has(grant)
    fake.grants["g1"].rotate()
    await until(lambda: not client.following.has(grant), 5)
    reads = fake.count_reads("g1")
    await asyncio.sleep(1.2)
    assert fake.count_reads("g1") == reads
    await grant.token()
    assert client.following.has(grant)


async def test_who_gives_up_takes_nobody_along(client: Broker, fake: FakeBroker) -> None:
    """A cancelled caller leaves the request to the others that wait for it."""
    fake.hanging = True
    grant = client.grant("g1")
    first, second = asyncio.create_task(grant.token()), asyncio.create_task(grant.token())
    await asyncio.sleep(0.1)
    first.cancel()
    await asyncio.sleep(0)
    fake.hanging = False
    assert (await second).value == fake.grants["g1"].token
    assert first.cancelled()
    assert fake.count_reads("g1") <= 2


async def test_closing_ends_everything(fake: FakeBroker) -> None:
    """After `close` no task and no connection is left, whatever was awaited."""
    before = asyncio.all_tasks()
    client = Broker.from_env()
    await client.grant("g1").token()
    fake.hanging = True
    waiting = asyncio.create_task(client.grant("g1").token(min_ttl=3599.99))
    await asyncio.sleep(0.1)
    await client.close()
    with pytest.raises(InvalidConfiguration, match="closed"):
        await waiting
    assert asyncio.all_tasks() - before - {waiting} == set()
    with pytest.raises(InvalidConfiguration, match="closed"):
        await client.grant("g1").token(min_ttl=3599.99)
