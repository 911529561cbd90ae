"""`token-broker sink`: keep files current for services that read files."""

from __future__ import annotations

import asyncio
import os
import random
import shlex
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import structlog
import typer

from broker import errors
from broker.cli.console import EXIT_FAILURE, EXIT_LOG_IN, EXIT_SETTINGS, EXIT_TRY_AGAIN, app, err, exit_code, exits
from broker.cli.formats import FileFormat, formatted
from broker.cli.http import broker_at, error_of, run
from broker.cli.options import Config, KeyFile, Url
from broker.cli.sink.file import CannotWrite, TokenFile
from broker.cli.sink.hook import Action, Hook
from broker.cli.sink.settings import Sink, from_file, from_options, option
from broker.process import logs
from broker.process.tasks import run_until
from broker.settings import Log

if TYPE_CHECKING:
    from broker.cli.http import Broker

log = structlog.get_logger()
_WAIT = 50
"""Seconds of a long poll."""
_ONCE_WAIT = 25
_LEAST_PAUSE = 1.0
"""Seconds between two polls, should something between us and the broker answer at once."""
_LONGEST_PAUSE = 30.0


_EXITS = {
    0: "stopped by SIGTERM, or every file is written (--once)",
    EXIT_TRY_AGAIN: "no broker or no token yet (--once)",
    EXIT_LOG_IN: "a person must log in again (--once)",
    EXIT_SETTINGS: "invalid settings or options",
}


@app.command(epilog=exits(EXIT_FAILURE, own=_EXITS))
def sink(
    grant: Annotated[str | None, option("grant")] = None,
    file: Annotated[Path | None, option("file")] = None,
    form: Annotated[FileFormat | None, option("format", "-f", metavar="FORM")] = None,
    owner: Annotated[str | None, option("owner")] = None,
    group: Annotated[str | None, option("group")] = None,
    mode: Annotated[str | None, option("mode")] = None,
    in_place: Annotated[bool, option("in_place")] = False,
    command: Annotated[str | None, option("exec")] = None,
    to_send: Annotated[str | None, option("signal")] = None,
    pid_file: Annotated[Path | None, option("pid_file")] = None,
    on_expiry: Annotated[Literal["keep", "remove"] | None, option("on_expiry", metavar="WHAT")] = None,
    machine: Annotated[str | None, option("machine")] = None,
    login: Annotated[str | None, option("login")] = None,
    sinks: Annotated[Path | None, typer.Option(help="TOML file with a sink table for each of many files.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Write once and exit: for an init container.")] = False,
    config: Config = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Keep a file current for services that read files."""
    given = {
        "grant": grant,
        "file": file,
        "format": form,
        "owner": owner,
        "group": group,
        "mode": mode,
        "in_place": in_place or None,
        "exec": _words(command),
        "signal": to_send,
        "pid_file": pid_file,
        "on_expiry": on_expiry,
        "machine": machine,
        "login": login,
    }
    if sinks is not None and any(value is not None for value in given.values()):
        raise typer.BadParameter("--sinks says all about its files: give it alone, or --grant and --file")
    if sinks is None and (grant is None or file is None):
        raise typer.BadParameter("give --grant and --file, or --sinks FILE")
    wanted = from_file(sinks) if sinks is not None else [from_options(**given)]
    logs.set_up(Log())
    hooks: dict[Action, Hook] = {}
    feeds = [
        Feed(each, hooks.setdefault(action, Hook(action)), (config, url, key_file))
        for each in wanted
        for action in (_action(each),)
    ]
    for feed in feeds:
        feed.file.check()
    if once:
        raise typer.Exit(run(_once(feeds, list(hooks.values()))))
    run(_forever(feeds, list(hooks.values())))


def _words(command: str | None) -> list[str] | None:
    try:
        return None if command is None else shlex.split(command)
    except ValueError as error:
        raise typer.BadParameter(f"--exec: {str(error).lower()}") from None


def _action(wanted: Sink) -> Action:
    number = signal.Signals[wanted.signal] if wanted.signal else None
    return Action(tuple(wanted.exec), number, wanted.pid_file)


async def _forever(feeds: list[Feed], hooks: list[Hook]) -> None:
    """Until SIGTERM; files stay as they are then."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)

    async def everything() -> None:
        async with asyncio.TaskGroup() as loops:
            for work in (*(feed.run() for feed in feeds), *(hook.run() for hook in hooks)):
                loops.create_task(work)

    await run_until(stopping, everything())
    for hook in hooks:
        await hook.finish()


async def _once(feeds: list[Feed], hooks: list[Hook]) -> int:
    """Write every file once; the exit code: what a person must mend before what heals by itself."""
    outcomes = await asyncio.gather(*(feed.once() for feed in feeds))
    for hook in hooks:
        await hook.finish()
    weightiest = (EXIT_SETTINGS, EXIT_LOG_IN, EXIT_FAILURE, *outcomes)
    return next((code for code in weightiest if code and code in outcomes), 0)


class Feed:
    """Keeps one file current."""

    def __init__(self, wanted: Sink, hook: Hook, where: tuple[Path | None, str | None, Path | None]) -> None:
        self._wanted = wanted
        self._hook = hook
        self._where = where
        self.file = TokenFile(
            wanted.file, owner=wanted.owner, group=wanted.group, mode=int(wanted.mode, 8), in_place=wanted.in_place
        )
        self._generation: int | None = None
        self._expires: float | None = None
        """Monotonic seconds; None: nothing that expires is in the file, as far as we know."""
        self._dead = False
        """What is in the file is known to be."""
        self._failures = 0
        self._said = ""

    async def run(self) -> None:
        """Keep it current until cancelled."""
        while True:
            await self.step()

    async def step(self) -> None:
        """Follow the broker as long as it answers, then wait a while. Nothing that happens here ends it."""
        try:
            async with broker_at(*self._where) as broker:
                while True:
                    began = time.monotonic()
                    await self._poll(broker, self._wait())
                    self._recovered()
                    await asyncio.sleep(max(0.0, _LEAST_PAUSE - (time.monotonic() - began)))
        except errors.ReauthorizationRequired as error:
            if self._is_news(error):
                log.error("sink.reauthorization_required", **self._about(error))
            if not self._dead and self._expires is None:
                self._expires = time.monotonic()  # whatever a run before us has left there, it is dead
        except errors.BrokerError as error:
            if self._is_news(error):
                log.error(
                    "sink.not_written" if isinstance(error, CannotWrite) else "sink.waiting", **self._about(error)
                )
        self._expire()
        pause = min(_LONGEST_PAUSE, 2**self._failures) * (0.5 + random.random() / 2)
        self._failures = min(self._failures + 1, 16)
        await asyncio.sleep(min(pause, max(_LEAST_PAUSE, self._left())))

    async def once(self) -> int:
        """Write it once; the exit code, what went wrong being said."""
        try:
            async with broker_at(*self._where) as broker:
                await self._poll(broker, _ONCE_WAIT)
        except errors.BrokerError as error:
            err.print(f"token-broker: {self._wanted.grant}: {error}", markup=False)
            return exit_code(error)
        return 0

    async def _poll(self, broker: Broker, wait: int) -> None:
        """Ask for a token other than the one we have; write it if there is one within *wait* seconds."""
        headers = {"Prefer": f"wait={wait}"}
        if self._generation is not None:
            headers["If-None-Match"] = f'"{self._generation}"'
        async with broker.stream("GET", f"/v1/grants/{self._wanted.grant}/token", headers=headers) as answer:
            if answer.status == 304:
                return
            try:
                body: Any = await answer.json(content_type=None)
            except ValueError:
                body = None
        if answer.status != 200:
            raise error_of(answer.status, body)
        if not isinstance(body, dict) or "access_token" not in body:
            raise errors.TokenUnavailable(f"what answers is not token-broker (HTTP {answer.status})")
        self._write(body)

    def _write(self, answer: dict[str, Any]) -> None:
        # expires_in counts from an answer, and a file is read at any time after it.
        kept = {name: value for name, value in answer.items() if name != "expires_in"}
        wanted = self._wanted
        text = formatted(kept, wanted.format, machine=wanted.machine or "", login=wanted.login)
        if self.file.write(text.encode() + (b"" if wanted.format == "text" else b"\n")):
            log.info("sink.written", generation=answer["generation"], **self._about())
            self._hook.ask()
        self._generation, self._dead = answer["generation"], False
        self._expires = time.monotonic() + answer["expires_in"]

    def _left(self) -> float:
        """Seconds until something is to be done about the token in the file."""
        return float("inf") if self._expires is None else self._expires - time.monotonic()

    def _wait(self) -> int:
        return int(max(1.0, min(_WAIT, self._left() + 1)))

    def _expire(self) -> None:
        """Say that the token in the file is dead, once, and remove it if that is wanted."""
        if self._left() > 0:
            return
        self._expires, self._generation, self._dead = None, None, True
        if not os.path.lexists(self._wanted.file):
            return
        log.warning("sink.expired", kept=self._wanted.on_expiry == "keep", **self._about())
        if self._wanted.on_expiry == "remove":
            try:
                self.file.remove()
            except CannotWrite as error:
                log.error("sink.not_written", **self._about(error))

    def _is_news(self, error: errors.BrokerError) -> bool:
        """Whether it is something else that goes wrong now: one event for as long as the same does."""
        said, self._said = self._said, str(error)
        return said != self._said

    def _about(self, error: errors.BrokerError | None = None) -> dict[str, Any]:
        about = {"file": str(self._wanted.file), "grant_id": self._wanted.grant}
        return about if error is None else about | {"error": str(error)}

    def _recovered(self) -> None:
        if self._said:
            log.info("sink.recovered", **self._about())
        self._said, self._failures = "", 0
