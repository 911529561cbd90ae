"""Where the broker is and with which key: what is missing is named, and the key goes to the broker alone."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from traceback import walk_tb
from typing import Any

import pytest
import trustme
from aiohttp import web

from broker.client import (
    Broker,
    BrokerUnreachable,
    InvalidConfiguration,
    ReauthorizationRequired,
    SyncBroker,
    Token,
    UnknownKey,
)
from broker.client.place import Key, place, place_from
from broker.testing import FakeBroker
from tests.client.conftest import Api
from tests.ports import free_port
from tests.waiting import until


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "TOKEN_BROKER_URL is not set"),
        ({"TOKEN_BROKER_URL": "http://a"}, "neither TOKEN_BROKER_KEY_FILE nor TOKEN_BROKER_KEY is set"),
        ({"TOKEN_BROKER_URL": " ", "TOKEN_BROKER_KEY": "k"}, "TOKEN_BROKER_URL is not set"),
        ({"TOKEN_BROKER_URL": "a:8080", "TOKEN_BROKER_KEY": "k"}, "TOKEN_BROKER_URL must be http://HOST:PORT"),
        ({"TOKEN_BROKER_URL": "http://", "TOKEN_BROKER_KEY": "k"}, "must be http://HOST:PORT"),
        ({"TOKEN_BROKER_URL": "http://a:99999", "TOKEN_BROKER_KEY": "k"}, "must be http://HOST:PORT"),
        ({"TOKEN_BROKER_URL": "http://[a", "TOKEN_BROKER_KEY": "k"}, "must be http://HOST:PORT"),
        ({"TOKEN_BROKER_URL": "http://a/?x=1", "TOKEN_BROKER_KEY": "k"}, "must be http://HOST:PORT"),
        ({"TOKEN_BROKER_URL": "http://u:secret@a", "TOKEN_BROKER_KEY": "k"}, "holds a name or a password"),
        ({"TOKEN_BROKER_URL": "unix:run/x.sock", "TOKEN_BROKER_KEY": "k"}, "whole path, unix:/PATH"),
        ({"TOKEN_BROKER_URL": "http://a", "TOKEN_BROKER_KEY": "two words"}, "TOKEN_BROKER_KEY holds no key"),
        ({"TOKEN_BROKER_URL": "http://a", "TOKEN_BROKER_KEY_FILE": "/nowhere"}, "KEY_FILE: /nowhere cannot be read"),
        ({"TOKEN_BROKER_URL": "http://a", "TOKEN_BROKER_KEY_FILE": "/dev/null"}, "TOKEN_BROKER_KEY_FILE holds no key"),
    ],
)
def test_what_is_missing_is_named(environment: dict[str, str], said: str) -> None:
    """The variable, what is allowed, and what to do; never what a key or a password was."""
    with pytest.raises(InvalidConfiguration) as wrong:
        place_from(environment)
    assert said in str(wrong.value)
    assert "secret" not in str(wrong.value)
    assert "two words" not in str(wrong.value)


@pytest.mark.parametrize("arguments", [{}, {"key": "k", "key_file": "/k"}])
def test_one_key(arguments: dict[str, Any]) -> None:
    """Exactly one of the two ways to give it."""
    for kind in (Broker, SyncBroker):
        with pytest.raises(InvalidConfiguration, match="key=… or key_file=…"):
            kind("http://a", **arguments)


def test_a_file_wins(tmp_path: Path) -> None:
    """As with the commands: the file, then the variable; the end of its line and a byte order mark are not the key."""
    (tmp_path / "key").write_bytes(b"\xef\xbb\xbffrom-file\r\n")
    found = place_from(
        {
            "TOKEN_BROKER_URL": "https://broker.example.com/prefix/",
            "TOKEN_BROKER_KEY": "other",
            "TOKEN_BROKER_KEY_FILE": str(tmp_path / "key"),
        }
    )
    assert found.key.reveal() == "from-file"
    assert found.base == "https://broker.example.com/prefix"


async def test_a_unix_socket() -> None:
    """By `unix:/PATH`; there is no address that a browser could open."""
    with tempfile.TemporaryDirectory(prefix="tb-") as directory, FakeBroker(socket_path=directory + "/s") as fake:
        grant = fake.add("g1")
        async with Broker(fake.url, fake.key) as client:
            assert (await client.grant("g1").token()).value == grant.token
            grant.kill()
            fake.down()
            fake.up()
        async with Broker(fake.url, fake.key) as client:
            with pytest.raises(ReauthorizationRequired, match="no longer accepts") as dead:
                await client.grant("g1").token()
            assert dead.value.login_url == f"{fake.url}/#search=g1"


async def test_a_key_file_that_is_replaced(fake: FakeBroker, tmp_path: Path) -> None:
    """A new key in the file is taken up when the broker no longer knows the old one, without a restart."""
    file = tmp_path / "key"
    file.write_text(fake.key)
    async with Broker(fake.url, key_file=file) as client:
        await client.grant("g1").token()
        fake.key = "the-next-key"
        with pytest.raises(UnknownKey, match=f"the key in {file}"):
            await client.grant("g1").token(min_ttl=3599.9)
        file.write_text("the-next-key\n")
        tokens = await asyncio.gather(*(client.grant("g1").token(min_ttl=3599 + n / 100) for n in range(20)))
        assert {token.grant_id for token in tokens} == {"g1"}


async def test_https(tmp_path: Path, fake: FakeBroker) -> None:
    """A certificate is verified, by *tls* where it is of one's own authority."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    port = free_port()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(fake.grants["g1"].answer())

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "localhost", port, ssl_context=server).start()
    try:
        async with Broker(f"https://localhost:{port}", "key", tls=ours) as client:
            assert (await client.grant("g1").token()).value == fake.grants["g1"].token
        async with Broker(f"https://localhost:{port}", "key") as client:
            with pytest.raises(BrokerUnreachable, match="its certificate: "):
                await client.grant("g1").token(timeout=0.5)
    finally:
        await runner.cleanup()


@pytest.fixture
async def impostor() -> AsyncIterator[tuple[str, list[str]]]:
    """Something else at the broker's address: it redirects whoever asks."""
    seen: list[str] = []
    port = free_port()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.path)
        raise web.HTTPTemporaryRedirect(f"http://127.0.0.1:{port}/elsewhere")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}", seen
    await runner.cleanup()


async def test_the_key_follows_no_redirect(impostor: tuple[str, list[str]]) -> None:
    """What redirects is no broker: the key is not carried on."""
    url, seen = impostor
    async with Broker(url, "the-caller's-key") as client:
        with pytest.raises(BrokerUnreachable, match=r"no token-broker \(HTTP 307\)"):
            await client.grant("g1").token(timeout=0.2)
    assert set(seen) == {"/v1/grants/g1/token"}


async def test_the_key_goes_through_no_proxy(fake: FakeBroker, elsewhere: Api, monkeypatch: Any) -> None:
    """A proxy of the environment is for the world outside."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, elsewhere.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with Broker.from_env() as client:
        await client.grant("g1").token()
    assert elsewhere.came == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"<html>",
        b"{}",
        b'{"access_token": "x"}',
        b"\xff",
        b"[" * 100_000,
        b'{"access_token": "x", "expires_in": "never", "expires_at": 1, "generation": 1, "grant_id": "g1"}',
    ],
)
async def test_what_is_no_broker_is_said_to_be_none(body: bytes) -> None:
    """Any 200 that is no token answer."""
    port = free_port()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=body)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with Broker(f"http://127.0.0.1:{port}", "key") as client:
            with pytest.raises(BrokerUnreachable, match="no token-broker"):
                await client.grant("g1").token(timeout=0.2)
    finally:
        await runner.cleanup()


def _locals(error: BaseException | None) -> list[str]:
    """Return what a tool shows that collects the variables of every frame of an error, and of what led to it."""
    shown: list[str] = []
    while error is not None:
        frames = [frame for frame, _ in walk_tb(error.__traceback__)]
        shown += [repr(frame.f_locals) for frame in frames if frame.f_code.co_filename != __file__]
        error = error.__context__
    return shown


async def test_nothing_shows_a_secret(fake: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the key nor a token in any text of ours; JSON, pickle and copies are refused."""
    caplog.set_level("DEBUG")
    shown: list[str] = []
    async with Broker.from_env() as client:
        grant = client.grant("g1")
        token = await grant.token()
        shown += [f"{each!r} {each!s} {each}" for each in (client, grant, token, SyncBroker.from_env())]
        shown += [
            f"{token:>40}",
            repr(token.authorization),
            repr({"Authorization": token.authorization}),
            repr(vars(client)),
        ]
        for refuse in (json.dumps, pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError) as refused:
                refuse(token)
            shown.append(str(refused.value))
        key = Key(fake.key, None, "key")
        with pytest.raises(TypeError):
            pickle.dumps(key)
        fake.down()
        with pytest.raises(BrokerUnreachable) as gone:
            await client.grant("g2").token(timeout=0.1)
        await asyncio.sleep(0.1)
        fake.up()
        fake.key = "another"
        with pytest.raises(UnknownKey) as wrong:
            await client.grant("g2").token()
        for error in (gone.value, wrong.value):
            assert error.__cause__ is None
            assert error.__context__ is None or error.__suppress_context__
            shown += [str(error), repr(error), repr(vars(error)), *_locals(error)]
    shown += [record.getMessage() for record in caplog.records]
    everything = "\n".join(shown)
    assert fake.grants["g1"].token not in everything
    assert "fake-broker-key" not in everything
    assert isinstance(token, Token)
    assert token.authorization == f"Bearer {token.value}"


def test_a_place_hides_its_key() -> None:
    """Whatever shows it."""
    assert "the-key" not in repr(place("http://a", "the-key")) + repr(place("http://a", "the-key").key)


async def test_another_event_loop(fake: FakeBroker) -> None:
    """A Broker that a loop has used is refused in another, with what to do."""
    async with Broker.from_env() as client:
        await client.grant("g1").token()

        def elsewhere() -> None:
            asyncio.run(client.grant("g2").token())

        with pytest.raises(InvalidConfiguration, match="SyncBroker"):
            await asyncio.to_thread(elsewhere)


async def test_many_grants_at_once(fake: FakeBroker) -> None:
    """Each grant in use holds a connection of its own, and none waits for another's."""
    for number in range(150):
        fake.add(f"m{number}")
    async with Broker.from_env() as client:
        await asyncio.gather(*(client.grant(f"m{number}").token() for number in range(150)))
        await until(lambda: len(fake.asked) >= 300, 10)
        fake.add("last")
        assert (await client.grant("last").token(timeout=5)).value == fake.grants["last"].token
    assert os.environ["TOKEN_BROKER_URL"] == fake.url
