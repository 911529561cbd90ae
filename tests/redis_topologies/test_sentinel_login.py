"""Sentinels have a user and a password of their own, and never get those of the servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.cli import move
from broker.cli.options import load
from broker.errors import StoreUnavailable
from broker.store.redis.primary import Primary
from tests.conftest import StartBroker
from tests.redis_server import RedisServer
from tests.redis_topologies.servers import SERVICE, Fleet
from tests.waiting import until

SERVERS, SENTINELS = "the-password-of-the-servers", "the-password-of-the-sentinels"


@contextlib.asynccontextmanager
async def recording(port: int, sent: bytearray) -> AsyncIterator[int]:
    """Yield the port of a relay to *port* that keeps what clients send."""
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray | None) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if kept is not None:
                    kept += data
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        upstream, downstream = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, downstream, sent), pump(upstream, writer, None))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def watched(fleet: Fleet) -> RedisServer:
    """Return a Sentinel over a server whose user `keeper` has a password; the Sentinel asks for none yet."""
    primary = fleet.data()
    await until(primary.answers, 30)
    await primary.ask("ACL", "SETUSER", "keeper", "on", f">{SERVERS}", "~*", "&*", "+@all")
    sentinel = fleet.sentinel(primary, 1)
    await until(sentinel.answers, 30)
    return sentinel


async def lock(sentinel: RedisServer) -> None:
    """Have a Sentinel ask everybody for a password, and know the user `broker`."""
    rights = ("on", f">{SENTINELS}", "-@all", "+sentinel|get-master-addr-by-name", "+client|setname")
    await sentinel.ask("ACL", "SETUSER", "broker", *rights)
    await sentinel.ask("ACL", "SETUSER", "default", "resetpass", f">{SENTINELS}")


async def ask(url: str, credentials: tuple[str | None, str | None]) -> None:
    primary = Primary(url, sentinels=credentials)
    try:
        assert await primary.call("PING") == b"PONG"
    finally:
        await primary.close()


@pytest.mark.parametrize("user", [None, "broker"])
async def test_never_sent_the_password_of_the_servers(watched: RedisServer, user: str | None) -> None:
    """Whatever a Sentinel asks for: with its own password, without one, and with a wrong one."""
    sent = bytearray()
    async with recording(watched.port, sent) as port:
        url = f"redis+sentinel://keeper:{SERVERS}@127.0.0.1:{port}/{SERVICE}"
        await ask(url, (None, None))
        await ask(url, (user, SENTINELS))  # it asks for none: so it goes without
        await lock(watched)
        await ask(url, (user, SENTINELS))
        with pytest.raises(StoreUnavailable) as refused:
            await ask(url, (None, None))
        assert "no Sentinel replies: denied access" in str(refused.value)
        assert "redis.sentinel_password_file" in refused.value.cure
        with pytest.raises(StoreUnavailable) as refused:
            await ask(url, (user, "another"))
        assert refused.value.cure.startswith("correct redis.sentinel_username")
    assert SENTINELS.encode() in sent
    assert SERVERS.encode() not in sent
    assert b"keeper" not in sent


async def test_sentinel_user_without_rights(watched: RedisServer) -> None:
    """The error says which rights the user needs at the Sentinels."""
    await watched.ask("ACL", "SETUSER", "broker", "on", f">{SENTINELS}", "-@all", "+client|setname")
    url = f"redis+sentinel://keeper:{SERVERS}@{watched.address}/{SERVICE}"
    with pytest.raises(StoreUnavailable) as refused:
        await ask(url, ("broker", SENTINELS))
    assert "+sentinel|get-master-addr-by-name" in refused.value.cure


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Return the settings that name a file for each password."""
    named = {"password_file": tmp_path / "servers", "sentinel_password_file": tmp_path / "sentinels"}
    for path, password in zip(named.values(), (SERVERS, SENTINELS), strict=True):
        path.write_text(password + "\n")
        path.chmod(0o600)
    return named


async def test_broker_with_both_passwords_in_files(
    start_broker: StartBroker, watched: RedisServer, files: dict[str, Path]
) -> None:
    """A broker finds its primary with both, and logs neither."""
    await lock(watched)
    url = f"redis+sentinel://keeper@{watched.address}/{SERVICE}"
    async with start_broker(redis={"url": url, "sentinel_username": "broker", **files}, providers={}) as broker:
        assert (await broker.ask("GET", "/readyz"))[0] == 200
        assert broker.events("store.located")
    assert SERVERS not in broker.log.getvalue()
    assert SENTINELS not in broker.log.getvalue()


async def test_a_move_to_servers_behind_them(watched: RedisServer, files: dict[str, Path], tmp_path: Path) -> None:
    """`token-broker move` finds its target with the Sentinels' user and password, and checks it by them too."""
    await lock(watched)
    path = tmp_path / "broker.toml"
    path.write_text(
        f'data_dir = "{tmp_path}/data"\n[redis]\nurl = "redis://127.0.0.1:1/0"\n[sealing]\nkeys_file = "keys"\n'
    )
    to = f"redis+sentinel://keeper@{watched.address}/{SERVICE}"
    settings = await asyncio.to_thread(load, path)
    for user, allowed in (("broker", True), ("nobody", False)):
        given = (user, files["sentinel_password_file"])
        asked = await asyncio.to_thread(move._read, settings, to, files["password_file"], given)
        with contextlib.nullcontext() if allowed else pytest.raises(StoreUnavailable):
            await move._require_usable(asked)
            async with move._opened(asked, move._Steps(visible=False)) as moving:
                assert await moving._ends.target.call("PING") == b"PONG"
