"""`run`: how it starts, waits, rereads, ends, and refuses to start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from broker.secret import key_digest, new_sealing_key
from tests.cli.conftest import COMMAND, Home, line, lines
from tests.ports import free_port
from tests.redis_server import RedisServer, start_redis
from tests.waiting import until

AS_NOBODY = """
import os
import broker.cli.run, broker.cli.sink.sink, broker.service, encodings.utf_8_sig, uvloop  # unreadable later
from broker.cli import main
os.setgroups([]); os.setgid(65534); os.setuid(65534)
main(["run"])
"""


async def test_init_runs(home: Home) -> None:
    """What `init` prints runs as it is once a client id and secret are filled in."""
    done = await home("init", "--provider", "een-v3")
    port = home.url.rpartition(":")[2]
    home.settings.write_text(done.out.replace("\u2026", "x").replace(":8080", f":{port}"))
    (home.directory / "client_secret").write_text("x")
    process = await home.run()
    assert (home.data.stat().st_mode & 0o777, (home.data / "admin.key").stat().st_mode & 0o777) == (0o700, 0o600)
    assert (await home("status")).code == 0
    assert await home.stop(process) == 0


async def test_sigterm(home: Home) -> None:
    """On SIGTERM /readyz turns 503 at once, tokens are served for drain_delay, and the exit code is 0."""
    home.write(http='drain_delay = "1.5s"')
    process = await home.run()
    (home.directory / "one").write_text(line(home, "g"))
    assert (await home("import", "one")).code == 0
    assert (await home.get("/v1/grants/g/token"))[0] == 200
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    await until(lambda: home.status("/readyz", 503), timeout=1)
    assert (await home.get("/v1/grants/g/token"))[0] == 200
    assert (await home.get("/healthz"))[0] == 200
    assert await asyncio.to_thread(process.wait, 10) == 0
    assert 1.4 < time.monotonic() - began < 5
    assert not home.left_behind()


async def test_no_core_of_a_running_broker(home: Home) -> None:
    """It has set its own limit to 0, since a core would hold tokens."""
    process = await home.run()
    (limit,) = [line for line in Path(f"/proc/{process.pid}/limits").read_text().splitlines() if "core file" in line]
    assert limit.split()[4:6] == ["0", "0"]
    assert await home.stop(process) == 0


async def test_ctrl_c(home: Home) -> None:
    """Ctrl-C ends it with 0; on a terminal without the drain delay."""
    home.write(http='drain_delay = "30s"')
    process = subprocess.Popen(
        [sys.executable, "-c", "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)", COMMAND, "run"],
        cwd=home.directory,
        env=home.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    home.started.append(process)
    await until(lambda: home.status("/readyz", 200), timeout=20)
    assert process.stdin is not None
    process.stdin.write(b"\x03")
    process.stdin.flush()
    assert await asyncio.to_thread(process.wait, 10) == 0
    assert process.stdout is not None
    assert b"Traceback" not in process.stdout.read()


async def test_sighup(home: Home) -> None:
    """SIGHUP takes over new callers and drops old ones; settings that became wrong are said and change nothing."""
    process = await home.run()
    new, old = "new-key-0123456789-0123456789-0123456789", "old-key-0123456789-0123456789-0123456789"

    def caller(key: str) -> str:
        return f'[callers.wall]\nkey_sha256 = "{key_digest(key)}"\nread = ["*"]\n'

    async def known(key: str) -> bool:
        return (await home.get("/v1/grants/g/token", **{"X-Broker-Key": key}))[0] == 404

    for key, gone in ((old, new), (new, old)):
        home.write(caller(key))
        process.send_signal(signal.SIGHUP)
        await until(partial(known, key))
        assert not await known(gone)
    home.write("[log]\nlevel = 5\n[callers.wall]\nkey_file = 'gone'\n")
    process.send_signal(signal.SIGHUP)
    await until(lambda: "settings.not_reloaded" in home.log())
    assert await known(new)
    assert "log.level" in home.log()
    assert await home.stop(process) == 0


def _heard(home: Home, text: str) -> bool:
    return text in home.log()


async def test_sighup_changes_the_log_level(home: Home) -> None:
    """SIGHUP takes over the log's level, down and up again, without a restart: a read is logged at debug alone."""
    process = await home.run()
    (home.directory / "one").write_text(line(home, "g"))
    assert (await home("import", "one")).code == 0

    async def logs_a_read() -> bool:
        before = len(home.log())
        assert (await home.get("/v1/grants/g/token"))[0] == 200
        for _ in range(20):  # a thread writes the log
            if '"did": "token.read"' in home.log()[before:]:
                return True
            await asyncio.sleep(0.02)
        return False

    assert not await logs_a_read()
    for level, wanted in (("debug", True), ("info", False)):
        home.write(f'[log]\nlevel = "{level}"')
        process.send_signal(signal.SIGHUP)
        await until(partial(_heard, home, f'"log_level": "{level}", "event": "settings.reloaded"'))
        assert await logs_a_read() is wanted
    assert await home.stop(process) == 0


async def _refuses(home: Home, **options: str) -> str:
    done = await home("run", env=options)
    assert (done.code, done.out) == (78, ""), done
    (printed,) = [row for row in lines(done.err) if not row.startswith("{")]
    assert printed.startswith("token-broker: ")
    return printed.removeprefix("token-broker: ")


async def test_port_taken(home: Home) -> None:
    """A port that somebody else has: one line with the address and the way out, exit 78, and nothing left behind."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(home.url.rpartition(":")[2])))
        other.listen()
        address = home.url.removeprefix("http://")
        assert await _refuses(home) == (
            f"http.listen: cannot listen on {address} (Address already in use): free it or choose another address"
        )
    assert not home.left_behind()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another")
async def test_data_dir_of_another(home: Home) -> None:
    """A data_dir that we may not write: one line with both uids and the command that helps."""
    home.directory.chmod(0o755)
    home.data.mkdir(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", AS_NOBODY],
        cwd=home.directory,
        env=home.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    home.started.append(process)
    done = await home.ended(process)
    assert done.code == 78
    (printed,) = lines(done.err)
    assert printed == (
        f"token-broker: data_dir: {home.data} belongs to uid 0 and this process (uid 65534) cannot write there: "
        f"chown 65534 {home.data}, or name another"
    )


async def test_bad_places(home: Home) -> None:
    """A data_dir that is a file, missing sealing keys and missing caller keys: one line each, exit 78."""
    assert "is not a directory" in await _refuses(home, TOKEN_BROKER_DATA_DIR=str(home.settings))
    printed = await _refuses(home, TOKEN_BROKER_SEALING__KEYS_FILE="gone")
    assert printed.startswith("sealing.keys_file: gone cannot be read by uid")
    home.write("[callers.wall]\nkey_file = 'gone'\n")
    assert (await _refuses(home)).startswith("callers.wall.key_file: gone cannot be read by uid")


async def test_second_run_joins(home: Home) -> None:
    """A second `run` on the same data_dir, at another address, joins the embedded store and sees the same grants."""
    await home.run()
    (home.directory / "one").write_text(line(home, "g"))
    assert (await home("import", "one")).code == 0
    token = (await home("token", "g")).out
    other = f"127.0.0.1:{free_port()}"
    log = home.directory / "second.log"
    with log.open("wb") as file:
        second = home.start(
            "run", env={"TOKEN_BROKER_HTTP__LISTEN": other}, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    await until(lambda: "broker.started" in log.read_text(), timeout=20)
    done = await home("token", "g", "--url", f"http://{other}")
    assert (done.code, done.out) == (0, token)
    assert await home.stop(second) == 0
    assert (await home("token", "g")).out == token


async def test_redis_away_at_start(home: Home, tmp_path: Path) -> None:
    """Without Redis it waits, says so once with the hint, answers 503 on /readyz, and comes up when Redis does."""
    (home.directory / "sealing.keys").write_text(new_sealing_key() + "\n")
    port = free_port()
    home.write('[sealing]\nkeys_file = "sealing.keys"\n', redis=f'url = "redis://:PASSWORD-1@127.0.0.1:{port}/0"')
    process = await home.run(ready=False)
    await until(lambda: home.status("/readyz", 503), timeout=20)
    assert (await home.get("/healthz"))[0] == 200
    await asyncio.sleep(1.2)  # three tries: what is tested is that they say nothing
    events = [json.loads(row)["event"] for row in home.log().splitlines()]
    assert events.count("store.waiting") == 1
    server = await asyncio.to_thread(start_redis, tmp_path, port, "--requirepass", "PASSWORD-1")
    try:
        await until(lambda: home.status("/readyz", 200), timeout=20)
        assert "PASSWORD-1" not in home.log()
        assert await home.stop(process) == 0
    finally:
        server.kill()


async def test_keys_that_do_not_open(home: Home, own_redis: RedisServer) -> None:
    """Sealing keys that do not open what is stored: one line that says to put the old key back, exit 78."""
    keys = home.directory / "sealing.keys"
    keys.write_text(new_sealing_key() + "\n")
    home.write('[sealing]\nkeys_file = "sealing.keys"\n', redis=f'url = "{own_redis.url}"')
    assert await home.stop(await home.run()) == 0
    old = keys.read_text()
    keys.write_text(new_sealing_key() + "\n")
    assert "put the old key back into the file" in await _refuses(home)
    keys.write_text(keys.read_text() + old)
    assert await home.stop(await home.run()) == 0
