"""Wall clocks that are wrong, step, or live in another zone, by libfaketime; the monotonic clock is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from tests.redis_server import RedisServer, running_redis
from tests.regressions.process import Process, missing
from tests.scripted_server import AuthorizationServer
from tests.waiting import until

_PLACES = (
    "/usr/lib/*/faketime/libfaketimeMT.so.1",
    "/usr/lib*/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
)


def library() -> str:
    """Where libfaketime is; the test is skipped where it is missing."""
    for pattern in _PLACES:
        for path in Path("/").glob(pattern.lstrip("/")):
            return str(path)
    missing("libfaketime (Debian: apt-get install faketime)")
    raise AssertionError


class WallClock:
    """A wall clock that processes started under `env` go by, ahead of the true one by `ahead` seconds."""

    def __init__(self, path: Path, ahead: float = 0.0) -> None:
        self._path = path
        self._library = library()
        self.set(ahead)

    def set(self, ahead: float) -> None:
        """Step it to *ahead* seconds before the true time."""
        self.ahead = ahead
        beside = self._path.with_suffix(".new")
        beside.write_text(f"{ahead:+f}\n")
        beside.replace(self._path)  # nobody reads half a line

    def __call__(self) -> float:
        """Return what it shows now (epoch seconds)."""
        return time.time() + self.ahead

    @property
    def env(self) -> dict[str, str]:
        """The environment of a process that goes by it."""
        return {
            "LD_PRELOAD": self._library,
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }


@contextlib.contextmanager
def redis_at(clock: WallClock, folder: Path) -> Iterator[RedisServer]:
    """Yield a server that goes by *clock*."""
    folder.mkdir()
    # Under libfaketime each look at the clock reads a file: a server that also syncs on every write falls behind.
    with running_redis(folder, None, "--appendfsync", "everysec", env=clock.env) as server:
        yield server


async def take_in(broker: Process, auth_server: AuthorizationServer, *grants: str) -> None:
    """Import grants and wait for their first tokens."""
    await asyncio.gather(*(broker.put(grant, auth_server.issue(grant)) for grant in grants))
    await until(lambda: all(auth_server.redeemed[grant] for grant in grants), 20)
    for grant in grants:
        await until(lambda: broker.has_token(grant))
