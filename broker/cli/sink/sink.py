"""`token-broker sink`: keep files current for services that read files."""

from __future__ import annotations

import asyncio
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from broker.cli.console import EXIT_FAILURE, EXIT_LOG_IN, EXIT_SETTINGS, EXIT_TRY_AGAIN, app, exits
from broker.cli.formats import FileFormat
from broker.cli.http import broker_at, run
from broker.cli.options import Config, KeyFile, Url
from broker.cli.sink.feed import Feed
from broker.cli.sink.hook import Action, Hook
from broker.cli.sink.settings import Sink, from_file, from_options, option
from broker.process import logs, memory_image
from broker.process.tasks import run_until
from broker.settings import Log

if TYPE_CHECKING:
    from broker.cli.sink.feed import Connect

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
    options = {
        "grant": grant,
        "file": file,
        "format": form,
        "owner": owner,
        "group": group,
        "mode": mode,
        "in_place": in_place or None,
        "exec": _split(command),
        "signal": to_send,
        "pid_file": pid_file,
        "on_expiry": on_expiry,
        "machine": machine,
        "login": login,
    }
    if sinks is not None and any(value is not None for value in options.values()):
        raise typer.BadParameter("give --sinks alone, since its file sets everything, or give --grant and --file")
    if sinks is None and (grant is None or file is None):
        raise typer.BadParameter("give --grant and --file, or --sinks FILE")
    described = from_file(sinks) if sinks is not None else [from_options(options)]
    logs.set_up(Log())
    _keep_current(described, lambda: broker_at(config, url, key_file), once=once)


def _keep_current(sinks: list[Sink], connect: Connect, *, once: bool) -> None:
    """Write the files once, or keep them current until SIGTERM.

    Raises:
        CannotWrite: a file cannot be written; that is found before any token arrives.
        typer.Exit: with *once*, the exit code.
    """
    memory_image.protect()
    hooks: dict[Action, Hook] = {}
    feeds = []
    for each in sinks:
        action = _action(each)
        feeds.append(Feed(each, hooks.setdefault(action, Hook(action)), connect))
    for feed in feeds:
        feed.file.check()
    if once:
        raise typer.Exit(run(_once(feeds, list(hooks.values()))))
    run(_forever(feeds, list(hooks.values())))


def _split(command: str | None) -> list[str] | None:
    try:
        return None if command is None else shlex.split(command)
    except ValueError as error:
        raise typer.BadParameter(f"--exec: {str(error).lower()}") from None


def _action(wanted: Sink) -> Action:
    number = signal.Signals[wanted.signal] if wanted.signal else None
    return Action(tuple(wanted.exec), number, wanted.pid_file)


async def _forever(feeds: list[Feed], hooks: list[Hook]) -> None:
    """Keep the files current until SIGTERM, and leave them as they are then."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)

    # Each under its own `run_until`: a TaskGroup cancels a task once, and a library can lose that one cancellation.
    async with asyncio.TaskGroup() as loops:
        for work in (*(feed.run() for feed in feeds), *(hook.run() for hook in hooks)):
            loops.create_task(run_until(stopping, work))
    for hook in hooks:
        await hook.finish()


async def _once(feeds: list[Feed], hooks: list[Hook]) -> int:
    """Write every file once. Return the exit code: first of what a person must correct, then of what may recover."""
    outcomes = await asyncio.gather(*(feed.once() for feed in feeds))
    for hook in hooks:
        await hook.finish()
    by_weight = (EXIT_SETTINGS, EXIT_LOG_IN, EXIT_FAILURE, *outcomes)
    return next((code for code in by_weight if code and code in outcomes), 0)
