"""One file of `sink`: follow the broker, write each new token, and act when the token in the file expires."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import TYPE_CHECKING, Any

import structlog

from broker import errors
from broker.cli.console import err, exit_code
from broker.cli.formats import formatted
from broker.cli.sink.token_file import CannotWrite, TokenFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from broker.cli.http import Broker
    from broker.cli.sink.hook import Hook
    from broker.cli.sink.settings import Sink

    Connect = Callable[[], AbstractAsyncContextManager[Broker]]

log = structlog.get_logger()
_WAIT = 50
"""Seconds of a long poll."""
_ONCE_WAIT = 25
"""Seconds of the one poll of --once."""
_MIN_PAUSE = 1.0
"""Seconds between two polls, in case a proxy before the broker answers at once."""
_MAX_PAUSE = 30.0


class Feed:
    """One file, kept current by long polls of the broker."""

    def __init__(self, sink: Sink, hook: Hook, connect: Connect) -> None:
        """Set up a feed.

        Args:
            sink: The file, and the grant whose token it holds.
            hook: What to run after a change.
            connect: Opens a session with the broker.
        """
        self._sink = sink
        self._hook = hook
        self._connect = connect
        self.file = TokenFile(
            sink.file, owner=sink.owner, group=sink.group, mode=int(sink.mode, 8), in_place=sink.in_place
        )
        self._generation: int | None = None
        self._expires: float | None = None
        """Monotonic seconds; None: the file holds nothing that is known to expire."""
        self._expired = False
        """Whether the file is known to hold an expired token."""
        self._failures = 0
        self._last_error = ""

    async def run(self) -> None:
        """Keep the file current until cancelled."""
        while True:
            await self.step()

    async def step(self) -> None:
        """Follow the broker as long as it answers, then wait a while. No error of the broker or the file ends it."""
        try:
            async with self._connect() as broker:
                while True:
                    began = time.monotonic()
                    await self._poll(broker, self._poll_duration())
                    self._note_recovery()
                    await asyncio.sleep(max(0.0, _MIN_PAUSE - (time.monotonic() - began)))
        except errors.ReauthorizationRequired as error:
            if self._is_news(error):
                log.error("sink.reauthorization_required", **self._about(error))
            if not self._expired and self._expires is None:
                self._expires = time.monotonic()  # an earlier run may have left a token there, which has expired
        except errors.BrokerError as error:
            if self._is_news(error):
                log.error(
                    "sink.not_written" if isinstance(error, CannotWrite) else "sink.waiting", **self._about(error)
                )
        self._expire()
        pause = min(_MAX_PAUSE, 2**self._failures) * (0.5 + random.random() / 2)
        self._failures = min(self._failures + 1, 16)
        await asyncio.sleep(min(pause, max(_MIN_PAUSE, self._left())))

    async def once(self) -> int:
        """Write the file once. Return the exit code, and print what went wrong."""
        try:
            async with self._connect() as broker:
                await self._poll(broker, _ONCE_WAIT)
        except errors.BrokerError as error:
            err.print(f"token-broker: {self._sink.grant}: {error}", markup=False)
            return exit_code(error)
        return 0

    async def _poll(self, broker: Broker, wait: int) -> None:
        """Ask for a token other than the file's; write it if there is one within *wait* seconds."""
        headers = {"Prefer": f"wait={wait}"}
        if self._generation is not None:
            headers["If-None-Match"] = f'"{self._generation}"'
        async with broker.stream("GET", f"/v1/grants/{self._sink.grant}/token", headers=headers) as answer:
            if answer.status == 304:
                return
            try:
                body: Any = await answer.json(content_type=None)
            except ValueError:
                body = None
        if answer.status != 200:
            raise broker.error_of(answer.status, body)
        if not isinstance(body, dict) or "access_token" not in body:
            raise errors.TokenUnavailable(
                f"what answers there is not token-broker (HTTP {answer.status}): correct the address"
            )
        self._write(body)

    def _write(self, answer: dict[str, Any]) -> None:
        # expires_in counts from the response, and a program reads the file at any time after it.
        kept = {name: value for name, value in answer.items() if name != "expires_in"}
        sink = self._sink
        text = formatted(kept, sink.format, machine=sink.machine or "", login=sink.login)
        if self.file.write(text.encode() + (b"" if sink.format == "text" else b"\n")):
            log.info("sink.written", generation=answer["generation"], **self._about())
            self._hook.request()
        self._generation, self._expired = answer["generation"], False
        self._expires = time.monotonic() + answer["expires_in"]

    def _left(self) -> float:
        """Return the seconds until the token in the file expires."""
        return float("inf") if self._expires is None else self._expires - time.monotonic()

    def _poll_duration(self) -> int:
        """Return the seconds of the next long poll, which ends when the token in the file expires."""
        return int(max(1.0, min(_WAIT, self._left() + 1)))

    def _expire(self) -> None:
        """Log once that the token in the file has expired, and remove it if the settings ask for that."""
        if self._left() > 0:
            return
        self._expires, self._generation, self._expired = None, None, True
        if not os.path.lexists(self._sink.file):
            return
        log.warning("sink.expired", kept=self._sink.on_expiry == "keep", **self._about())
        if self._sink.on_expiry == "remove":
            try:
                self.file.remove()
            except CannotWrite as error:
                log.error("sink.not_written", **self._about(error))

    def _is_news(self, error: errors.BrokerError) -> bool:
        """Return whether *error* differs from the last one: the same error is logged once."""
        before, self._last_error = self._last_error, str(error)
        return before != self._last_error

    def _about(self, error: errors.BrokerError | None = None) -> dict[str, Any]:
        about = {"file": str(self._sink.file), "grant_id": self._sink.grant}
        return about if error is None else about | {"error": str(error)}

    def _note_recovery(self) -> None:
        if self._last_error:
            log.info("sink.recovered", **self._about())
        self._last_error, self._failures = "", 0
