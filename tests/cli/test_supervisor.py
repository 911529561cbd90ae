"""What systemd hears of a running broker, on a real datagram socket: sd_notify(3)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from broker.secret import new_sealing_key
from broker.service import stop_limit
from broker.settings.file import load
from tests.cli.conftest import Home
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.waiting import until

HUNG_LANE = """
import asyncio
import broker.process.heartbeat, broker.refresh.provider_set, broker.refresh.scheduler as scheduler
import broker.service as service
from broker.cli import main

step, steps = scheduler.Lane.step, []
async def hanging(self, refreshes):
    steps.append(self)
    await (step(self, refreshes) if len(steps) < 4 else asyncio.Event().wait())
scheduler.Lane.step = hanging
broker.refresh.provider_set.Heartbeat = lambda name: broker.process.heartbeat.Heartbeat(name, 2.5)
service.Heartbeat = lambda name: broker.process.heartbeat.Heartbeat(name, 60)
main(["run"])
"""


@contextlib.asynccontextmanager
async def hearing(address: str) -> AsyncIterator[list[dict[str, str]]]:
    """Yield what is said to the socket *address*, one dict of assignments a message."""
    heard: list[dict[str, str]] = []
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + address[1:] if address.startswith("@") else address)
        receiver.setblocking(False)

        def hear() -> None:
            text = receiver.recv(65536).decode()
            heard.append(dict(line.split("=", 1) for line in text.splitlines()))

        loop.add_reader(receiver, hear)
        try:
            yield heard
        finally:
            loop.remove_reader(receiver)


def of(heard: list[dict[str, str]], name: str) -> list[str]:
    """Return the values that were given to *name*, in order."""
    return [message[name] for message in heard if name in message]


async def test_systemd_hears_a_whole_life(home: Home) -> None:
    """Ready once it is; fed at half the watchdog's time; a reload begins and ends; a stop says how long it may take."""
    home.write(http='drain_delay = "1s"')
    address = str(home.directory / "notify")
    async with hearing(address) as heard:
        process = await home.run(env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "600000"})
        await until(lambda: of(heard, "READY"))
        ready = next(message for message in heard if "READY" in message)
        assert ready["STATUS"] == "refreshing; 0 tokens in memory"
        children = [pid for pid in home.left_behind() if pid != process.pid]
        assert children, "the embedded store is a child"
        for pid in [process.pid, *children]:
            # The kernel shows a process's first environment, so a child's is what was left of it by then.
            variables = Path(f"/proc/{pid}/environ").read_bytes()
            assert (b"NOTIFY_SOCKET" in variables, b"WATCHDOG" in variables) == (pid == process.pid,) * 2

        fed = len(of(heard, "WATCHDOG"))
        await asyncio.sleep(1.5)
        assert 2 <= len(of(heard, "WATCHDOG")) - fed <= 6  # 5, where the machine is not busy

        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        for good in (True, False):
            heard.clear()
            if not good:
                home.write("[log]\nlevel = 5\n")
            process.send_signal(signal.SIGHUP)
            await until(lambda: of(heard, "READY"))
            messages = [message for message in heard if "WATCHDOG" not in message]
            assert ["RELOADING" in message for message in messages] == [True, False]
            assert before < int(messages[0]["MONOTONIC_USEC"]) < time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

        home.write(http='drain_delay = "1s"')
        heard.clear()
        assert await home.stop(process) == 0
        stopping = next(message for message in heard if "STOPPING" in message)
        assert int(stopping["EXTEND_TIMEOUT_USEC"]) / 1e6 > stop_limit(await asyncio.to_thread(load, home.settings))
        assert stopping["STATUS"].startswith("stopping")
        assert of(heard[heard.index(stopping) :], "WATCHDOG"), "a broker that drains lives"
        assert of(heard, "READY") == []


async def test_start_without_redis_is_given_time(home: Home) -> None:
    """While Redis is away systemd is asked for more time, told why, and not told that it is ready."""
    (home.directory / "sealing.keys").write_text(new_sealing_key() + "\n")
    home.write('[sealing]\nkeys_file = "sealing.keys"\n', redis=f'url = "redis://127.0.0.1:{free_port()}/0"')
    address = str(home.directory / "notify")
    async with hearing(address) as heard:
        process = await home.run(ready=False, env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"})
        await until(lambda: len(of(heard, "EXTEND_TIMEOUT_USEC")) > 3, timeout=20)
        assert {"60000000"} == set(of(heard, "EXTEND_TIMEOUT_USEC"))
        assert of(heard, "STATUS")[-1].startswith("waiting for Redis: ")
        process.send_signal(signal.SIGHUP)
        await until(lambda: "settings.reloaded" in home.log())
        assert await home.stop(process) == 0
        assert of(heard, "READY") == of(heard, "RELOADING") == []


async def test_a_hung_loop_starves_the_watchdog(home: Home, own_redis: RedisServer) -> None:
    """A loop that misses its deadline ends the feeding, as it turns /healthz red, and the status names it."""
    (home.directory / "sealing.keys").write_text(new_sealing_key() + "\n")
    home.write('[sealing]\nkeys_file = "sealing.keys"\n', redis=f'url = "{own_redis.url}"')
    address = str(home.directory / "notify")
    env = home.env | {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"}
    log = home.directory / "hung.log"
    async with hearing(address) as heard:
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", HUNG_LANE], cwd=home.directory, env=env, stdout=file, stderr=file
            )
        home.started.append(process)
        await until(lambda: any("no progress for" in words for words in of(heard, "STATUS")), timeout=20)
        assert of(heard, "READY") == ["1"]
        assert len(of(heard, "WATCHDOG")) > 1
        assert await home.status("/healthz", 503)
        heard.clear()
        await until(lambda: len(of(heard, "STATUS")) > 3)
        assert of(heard, "WATCHDOG") == []
        assert all(words.startswith("lane ") for words in of(heard, "STATUS"))
        process.kill()


async def test_other_sockets(home: Home) -> None:
    """A socket that is gone, or of a kind unknown here, is nothing; an abstract one hears us."""
    for address in (str(home.directory / "gone"), "vsock:2:1"):
        process = await home.run(env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"})
        assert await home.stop(process) == 0
    address = f"@token-broker-{home.url.rpartition(':')[2]}"
    async with hearing(address) as heard:
        process = await home.run(env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000", "WATCHDOG_PID": "1"})
        await until(lambda: of(heard, "READY"))
        assert await home.stop(process) == 0
        assert of(heard, "WATCHDOG") == []
