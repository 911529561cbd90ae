"""Whose connection it is: what a client behind a proxy can make the broker believe, which is nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.api.peers import Peers, site
from broker.errors import InvalidSettings
from broker.settings import Http
from broker.settings.file import load
from tests.waiting import until

from .conftest import Ground, StartGround
from .links import status

PROXY = "10.0.0.1"


def peers(header: str = "X-Forwarded-For") -> Peers:
    """Return what is known where 10.0.0.0/8 and a Unix socket are trusted."""
    return Peers.from_settings(
        Http.model_validate({"trusted_proxies": ["10.0.0.0/8", "2001:db8::5", "unix"], "forwarded_header": header})
    )


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ([], PROXY),
        ([""], PROXY),
        (["198.51.100.7"], "198.51.100.7"),
        (["203.0.113.9, 198.51.100.7"], "198.51.100.7"),  # the first is what the client said itself
        (["203.0.113.9", "198.51.100.7"], "198.51.100.7"),
        (["203.0.113.9, 198.51.100.7, 10.9.9.9"], "198.51.100.7"),  # two trusted proxies
        (["10.9.9.9, 10.8.8.8"], "10.9.9.9"),  # a client inside
        (["198.51.100.7:4711"], "198.51.100.7"),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (["2001:db8::1"], "2001:db8::1"),
        (["::ffff:198.51.100.7"], "198.51.100.7"),
        (["198.51.100.7, unknown"], PROXY),  # the proxy does not say
        (["198.51.100.7, <script>"], PROXY),
        (["198.51.100.7, unknown, 10.2.2.2"], "10.2.2.2"),
        (["10.1.1.1," * 9000 + "10.1.1.1"], "10.1.1.1"),
        (["," * 60_000], PROXY),
    ],
)
def test_x_forwarded_for(lines: list[str], client: str) -> None:
    """The walk begins at the right and ends at the first address that is no trusted proxy's."""
    assert peers().client(PROXY, lines) == client


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["for=198.51.100.7"], "198.51.100.7"),
        (["for=203.0.113.9, for=198.51.100.7;proto=https;by=10.0.0.1"], "198.51.100.7"),
        (['proto=https;For="[2001:db8::1]:4711"'], "2001:db8::1"),
        (["for=198.51.100.7, for=_hidden"], PROXY),
        (["for=198.51.100.7, proto=https"], PROXY),
        (["198.51.100.7"], PROXY),
        ([";" * 60_000], PROXY),
    ],
)
def test_forwarded(lines: list[str], client: str) -> None:
    """The same by RFC 7239."""
    assert peers("Forwarded").client(PROXY, lines) == client


def test_who_is_a_proxy() -> None:
    """Addresses, networks, and whoever comes over a Unix socket if that is said."""
    asked = (PROXY, "::ffff:10.1.1.1", "2001:db8::5", "", "198.51.100.7", "2001:db8::6", "x")
    assert [peers().is_proxy(peer) for peer in asked] == [True, True, True, True, False, False, False]
    assert not Peers.from_settings(Http()).is_proxy("")


@pytest.mark.parametrize(
    ("peer", "one"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_what_counts_as_one_peer(peer: str, one: str) -> None:
    """Who has an IPv6 address has the 2^64 beside it."""
    assert site(peer) == one


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("proxy.internal", "must be an address or a network"),
        ("10.0.0.1/8", "the bits behind the prefix must be 0"),
        ("0.0.0.0/0", "must not be every address"),
        ("::/0", "must not be every address"),
        ("", "must be an address or a network"),
    ],
)
def test_a_wrong_proxy_is_named(tmp_path: Path, value: str, words: str) -> None:
    """A wrong list is 78 with its line and the cure."""
    file = tmp_path / "broker.toml"
    file.write_text(f'[redis]\nurl = "embedded:"\n\n[http]\ntrusted_proxies = ["10.0.0.0/8", "{value}"]\n')
    with pytest.raises(InvalidSettings) as error:
        load(file)
    assert f"{file}:5: http.trusted_proxies" in str(error.value)
    assert words in str(error.value)


async def test_one_address_has_a_limit(start: StartGround) -> None:
    """The connections of one address that show no key make room for each other, and those with a key stay."""
    ground = await start(max_connections=100, max_connections_per_peer=6)
    links = [await asyncio.open_connection("127.0.0.1", ground.port) for _ in range(20)]
    assert await status(ground.port, "/v1/grants/g0/token", f"X-Broker-Key: {ground.key}") == 200
    await until(lambda: _open(ground, 7))
    for _, writer in links:
        writer.transport.abort()


async def test_clients_behind_a_proxy_are_told_apart(start: StartGround) -> None:
    """One client has its limit over all connections of the proxy, and another one is served all the same."""
    ground = await start(max_connections=100, max_connections_per_peer=2, trusted_proxies=["127.0.0.1"])
    etag = f'"{(await ground.broker.token("g0"))["generation"]}"'
    waits = (f"X-Broker-Key: {ground.key}", f"If-None-Match: {etag}", "Prefer: wait=50")
    one, other = "X-Forwarded-For: 1.1.1.1, 198.51.100.7", "X-Forwarded-For: 198.51.100.8"
    polls = [asyncio.create_task(status(ground.port, "/v1/grants/g0/token", one, *waits)) for _ in range(2)]
    await until(lambda: _polling(ground, 2))
    assert await status(ground.port, "/v1/grants/g0/token", one, f"X-Broker-Key: {ground.key}") == 503
    for _ in range(4):
        assert await status(ground.port, "/v1/grants/g0/token", other, f"X-Broker-Key: {ground.key}") == 200
    assert not any(poll.done() for poll in polls)
    for poll in polls:
        poll.cancel()
    await asyncio.gather(*polls, return_exceptions=True)


async def test_a_forged_header_of_a_stranger_is_nothing(start: StartGround) -> None:
    """Without a trusted proxy nobody is told apart by what they say."""
    ground = await start(max_connections=100, max_connections_per_peer=6)
    links = []
    for number in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", ground.port)
        writer.write(f"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.{number}\r\n\r\n".encode())
        await reader.readline()
        links.append(writer)
    await until(lambda: _open(ground, 7))
    for writer in links:
        writer.transport.abort()


async def _open(ground: Ground, most: int) -> bool:
    text = (await ground.broker.ask("GET", "/metrics"))[1]["text"]
    return float(text.partition("\ntoken_broker_connections ")[2].partition("\n")[0]) <= most


async def _polling(ground: Ground, many: int) -> bool:
    text = (await ground.broker.ask("GET", "/metrics"))[1]["text"]
    return f"\ntoken_broker_subscribers {float(many)}\n" in text
