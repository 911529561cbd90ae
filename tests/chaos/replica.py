"""A broker that dies and is started again on what it left behind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from broker.sandbox.options import fingerprint
from broker.secret import Sealer, parse_sealing_keys
from tests.chaos.disks import SmallDisk
from tests.regressions.clocks import WallClock
from tests.regressions.process import Process, broker_process
from tests.waiting import until

_PORT_TAKEN = "Address already in use"


@dataclass(slots=True)
class Death:
    """One SIGKILL: when (monotonic), what was unanswered then, and what it had on its disk."""

    at: float
    under_way: set[int]
    """Numbers of requests in the server's ledger."""
    journaled: set[str] | None
    """Fingerprints of refresh tokens; None: it keeps no journal."""
    next_life: float = float("inf")
    """When it was started again (monotonic). What the server reads until then, this life had sent."""


class Replica:
    """One broker that may be killed and started again on its folder."""

    def __init__(
        self,
        name: str,
        folder: Path,
        url: str,
        settings: dict[str, Any],
        *,
        disk: SmallDisk | None = None,
        clock: WallClock | None = None,
    ) -> None:
        """*disk*: where its journal lies; *clock*: what it takes for the time."""
        self.name = name
        self.disk = disk
        self.clock = clock
        self.up = False
        self.lives = 0
        self.deaths: list[Death] = []
        self.process: Process
        self.session: aiohttp.ClientSession
        self._past: list[dict[str, Any]] = []
        self._folder = folder
        self._url = url
        self._settings = settings
        self._stack = contextlib.AsyncExitStack()

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def log(self) -> list[dict[str, Any]]:
        """What it logged in all its lives."""
        return self._past + (self.process.log if self.up else [])

    async def start(self) -> None:
        """Start it, on what its last life left behind; returns once it is ready."""
        for left in (2, 1, 0):
            try:
                await self._begin()
            except AssertionError:
                # Its port was free when it was chosen, and another world's when it was wanted.
                if left == 0 or _PORT_TAKEN not in (self._folder / "log").read_text():
                    raise
            else:
                return

    async def _begin(self) -> None:
        if self.deaths:
            self.deaths[-1].next_life = time.monotonic()
        env, through = self.clock.env if self.clock else {}, self.disk.through if self.disk else ()
        broker = broker_process(self._folder, self._url, env=env, through=through, **self._settings)
        self.process = await self._stack.enter_async_context(broker)
        popen = self.process.popen
        # Whoever answered on its port may have been another broker.
        await until(
            lambda: popen.poll() is not None or any(line["event"] == "broker.started" for line in self.process.log), 60
        )
        if popen.poll() is not None:
            self.process.killed = True
            await self._stack.aclose()
            raise AssertionError((self._folder / "log").read_text()[-2000:])
        self.session = await self._stack.enter_async_context(aiohttp.ClientSession())
        self.lives += 1
        self.up = True

    async def kill(self, under_way: Callable[[], set[int]]) -> None:
        """SIGKILL; *under_way* gives the numbers of the requests that the server has not answered at that moment."""
        self.up = False
        self.process.kill()
        death = Death(time.monotonic(), under_way(), None)
        if self._settings["refresh"]["journal"]:
            death.journaled = await asyncio.to_thread(self._journaled)
        self.deaths.append(death)
        await self._bury()

    def _journaled(self) -> set[str]:
        """Fingerprints of the refresh tokens in its journal."""
        sealer = Sealer(parse_sealing_keys((self._folder.parent / "sealing.keys").read_text()))
        found = set()
        for path in (self._folder / "data" / "journal").glob("*.journal"):
            for line in path.read_bytes().split(b"\n")[:-1]:  # what follows the last one is torn
                _, grant, text = sealer.open(base64.b64decode(line), "journal", purpose="journal").split(" ", 2)
                cells = json.loads(text or "{}").get("fields", [])
                for name, value in zip(cells[::2], cells[1::2], strict=True):
                    if name == "refresh_token":
                        sealed = base64.b64decode(value["b"])
                        found.add(fingerprint(sealer.open(sealed, grant, "refresh_token")))
        return found

    async def terminate(self) -> None:
        """SIGTERM, and it must end well, in its own time."""
        self.up = False
        self.process.killed = True  # nothing is left to be looked through
        self.process.popen.terminate()
        with contextlib.suppress(AssertionError):
            await until(lambda: self.process.popen.poll() is not None, 60)
        last = (self._folder / "log").read_text()[-2000:]
        assert self.process.popen.poll() == 0, f"{self.name} ended with {self.process.popen.poll()} (None: not), {last}"
        await self._bury()

    async def close(self, secrets: set[str]) -> None:
        """End it at last; where it runs, no secret stands in its log."""
        if self.up:
            self.process.secrets |= secrets
        self._past, self.up = self.log, False
        await self._stack.aclose()

    async def _bury(self) -> None:
        self._past += self.process.log
        await self._stack.aclose()
