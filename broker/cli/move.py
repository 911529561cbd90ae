"""`token-broker move`: bring all grants to another Redis."""

from __future__ import annotations

import json
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from broker.cli.console import EXIT_SETTINGS, EXIT_TRY_AGAIN, app, err, exits, out
from broker.cli.http import run
from broker.cli.options import Config, Json, load
from broker.errors import InvalidSettings, StoreUnavailable
from broker.process.data_dir import known_store, redis_passwords, secret_line
from broker.settings import LEASE_MARGIN
from broker.settings.redis_url import parse_redis_url, shown_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.settings import Settings
    from broker.store.moving import Move, Moved

_RECORDING = 10.0
"""Seconds for which an answer that has arrived is waited for, on top of `refresh.request_timeout`."""
_STEPS = {
    "drain": "waiting for token requests that are under way",
    "copy": "copying",
    "compare": "comparing",
}
_EXITS = {
    0: "all is moved",
    EXIT_TRY_AGAIN: "broken off, nothing is lost: run it again",
    EXIT_SETTINGS: "it cannot be moved there, nothing was changed",
}
_AGAIN = "nothing is lost: run the same command again, it goes on where it stopped"


@app.command(epilog=exits(own=_EXITS))
def move(
    to: Annotated[str, typer.Option("--to", metavar="URL", help="Redis to move to, as redis.url; no password in it.")],
    to_password_file: Annotated[Path | None, typer.Option("--to-password-file", help="File with its password.")] = None,
    to_sentinel_password_file: Annotated[
        Path | None, typer.Option("--to-sentinel-password-file", help="File with the Sentinels' password.")
    ] = None,
    to_sentinel_username: Annotated[
        str | None, typer.Option("--to-sentinel-username", help="User at its Sentinels, if it is not `default`.")
    ] = None,
    abort: Annotated[
        bool, typer.Option("--abort", help="Return to the old Redis, as long as the new one was not opened.")
    ] = False,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Move all grants from the Redis of the settings to another one; brokers may run meanwhile.

    You can interrupt it and run it again. Then set redis.url to the new Redis, and restart every broker.
    """
    settings = load(config)
    asked = _read(settings, to, to_password_file, (to_sentinel_username, to_sentinel_password_file))
    began = time.monotonic()
    progress = _Steps(visible=not as_json)

    async def work() -> dict[str, Any]:
        async with _opened(asked, progress) as moving:
            if abort:
                return {"status": "aborted", "cleared": await moving.abort()}
            await _require_usable(asked)
            progress.total = await moving.count_grants()
            done = await moving.run(wait_s=settings.refresh.request_timeout.total_seconds() + _wait_s())
            return {"status": "already_moved" if done.already else "moved", **_facts(done)}

    try:
        with progress.bar:
            result = run(work())
    except StoreUnavailable as error:
        raise StoreUnavailable(f"{error}: {error.cure}. {_AGAIN[:1].upper()}{_AGAIN[1:]}") from None
    except typer.Exit:
        err.print(f"token-broker: interrupted: {_AGAIN}", markup=False)
        raise
    if settings.sealing.keys_file is None:
        result["keys_file"] = str(settings.data_dir.absolute() / "sealing.keys")
    result |= {
        "from": shown_url(settings.redis.url),
        "to": shown_url(to),
        "seconds": round(time.monotonic() - began, 1),
    }
    if as_json:
        typer.echo(json.dumps(result))
    else:
        for line in _sentences(result):
            out.print(line, markup=False)


def _wait_s() -> float:
    return LEASE_MARGIN.total_seconds() + _RECORDING


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a move needs of settings and files, read before anything is connected to."""

    settings: Settings
    to: str
    password: str | None
    sentinels: tuple[str | None, str | None]
    """Of the Redis of the settings."""
    to_password: str | None
    to_sentinels: tuple[str | None, str | None]
    """Of the Redis to move to."""
    known: str | None
    """The id of the store that the broker of these settings knows."""


def _read(
    settings: Settings, to: str, password_file: Path | None, of_sentinels: tuple[str | None, Path | None] = (None, None)
) -> _Asked:
    """Read all that is needed; *of_sentinels* is the user at the Sentinels of *to*, and the file with its password.

    Raises:
        InvalidSettings: a file is missing, or what is asked for cannot be.
    """
    _require_url(to)
    to_password = _password("--to-password-file", password_file)
    to_sentinels = _sentinels(to, *of_sentinels)
    if settings.redis.url.startswith("embedded:") and not (settings.data_dir / "store").is_dir():
        raise InvalidSettings(  # to start one would make an empty one
            f"redis.url: embedded: has no store in {settings.data_dir}: correct data_dir, or run this where the broker "
            "runs"
        )
    held = redis_passwords(settings)
    sentinels = (settings.redis.sentinel_username, held["sentinel_password"])
    return _Asked(
        settings=settings,
        to=to,
        password=held["password"],
        sentinels=sentinels,
        to_password=to_password,
        to_sentinels=to_sentinels,
        known=known_store(settings.data_dir),
    )


def _password(option: str, path: Path | None) -> str | None:
    """Return the password in the file of an *option*, where that is given.

    Raises:
        InvalidSettings: the file cannot be used.
    """
    cure = "write the password into it, or drop the option"
    return None if path is None else secret_line(option, path, cure, "other")


def _sentinels(to: str, user: str | None, path: Path | None) -> tuple[str | None, str | None]:
    """Return user and password at the Sentinels of *to*.

    Raises:
        InvalidSettings: it has none, the file cannot be used, or a user comes without a password.
    """
    option = "--to-sentinel-username" if path is None else "--to-sentinel-password-file"
    if (user or path) and parse_redis_url(to).topology != "sentinel":
        raise InvalidSettings(
            f"{option}: needs Sentinels in --to (redis+sentinel://HOST,HOST/SERVICE): correct that, or drop the option"
        )
    if user and path is None:
        raise InvalidSettings(f"{option}: needs --to-sentinel-password-file, which holds the user's password")
    return user, _password("--to-sentinel-password-file", path)


def _require_url(to: str) -> None:
    """Check that *to* is the URL of a server, and has no password.

    Raises:
        InvalidSettings: it is none, or has one.
    """
    if to.startswith("embedded:"):
        raise InvalidSettings("--to: embedded: is the store of one broker: name a Redis server, redis://HOST:6379/0")
    try:
        location = parse_redis_url(to)
    except ValueError as error:
        raise InvalidSettings(f"--to: {error}") from None
    if location.password or "password" in location.tls_options:
        raise InvalidSettings(
            "--to: has a password, which every user of this host can read in the list of processes: put it into a "
            "file, and name that with --to-password-file"
        )


@asynccontextmanager
async def _opened(asked: _Asked, steps: _Steps) -> AsyncIterator[Move]:
    """Connect to both ends; an embedded store is started, or joined where a broker runs it.

    Defers redis, which only the commands that speak to a store load.
    """
    from broker.store.moving import Ends, Move
    from broker.store.redis.embedded import embedded_server
    from broker.store.redis.primary import Primary
    from broker.store.redis.target import Target
    from broker.store.scripts import Keys

    redis = asked.settings.redis
    async with AsyncExitStack() as stack:
        url = redis.url
        if url.startswith("embedded:"):
            url = await stack.enter_async_context(embedded_server(asked.settings.data_dir))
        source = Primary(url, password=asked.password, sentinels=asked.sentinels)
        target = Target(asked.to, password=asked.to_password, sentinels=asked.to_sentinels)
        stack.push_async_callback(source.close)
        stack.push_async_callback(target.close)
        yield Move(
            Ends(source, target, shown_url(redis.url), shown_url(asked.to)),
            Keys(redis.namespace),
            known=asked.known,
            replicas=redis.replicas,
            report=steps.show,
        )


async def _require_usable(asked: _Asked) -> None:
    """Check the new server as `check --online` checks the one of the settings; warnings are printed. Defers redis.

    Raises:
        InvalidSettings: no broker can work with it.
    """
    from broker.check.store import check_store, why_too_old
    from broker.store.facts import fetch_facts
    from broker.store.redis.target import by_options

    user, sentinel_password = asked.to_sentinels
    redis = asked.settings.redis.model_copy(update={"url": asked.to, "sentinel_username": user})
    facts = await fetch_facts(
        redis,
        None,
        data_dir=asked.settings.data_dir,
        password=asked.to_password,
        sentinel_password=sentinel_password,
        listen=0.01,
    )
    if facts.unreachable is not None:
        raise StoreUnavailable(f"--to: Redis {facts.unreachable}", cure=by_options(facts.cure))
    if why := why_too_old(facts):
        raise InvalidSettings(f"--to: {why}")
    facts.store = facts.unknown_schema = None  # the move judges these
    facts.foreign = ()
    for finding in check_store(facts, redis, None):
        if finding.level in {"error", "failed"}:
            raise InvalidSettings(f"--to: {finding.what} ({finding.why}): {by_options(finding.cure)}")
        if finding.level == "warning":
            err.print(f"warning: --to: {finding.what} ({finding.why}): {by_options(finding.cure)}", markup=False)


class _Steps:
    """Shows how far a move is: a bar on a terminal, else a line for each step."""

    def __init__(self, *, visible: bool) -> None:
        self.total: int | None = None
        """How many grants there are."""
        self._lines = visible and not err.is_terminal
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self.bar = Progress(*columns, console=err, disable=not (visible and err.is_terminal), transient=True)
        self._task = self.bar.add_task("connecting", total=None)
        self._step = ""

    def show(self, step: str, done: int) -> None:
        """Show that *step* has dealt with *done* grants; of a drain, that so many requests are under way."""
        if step != self._step:
            self._step = step
            if self._lines:
                err.print(f"{_STEPS[step]} …", markup=False)
        if step == "drain":
            self.bar.update(self._task, description=f"{_STEPS[step]}: {done}", total=None)
        else:
            self.bar.update(self._task, description=_STEPS[step], total=self.total, completed=done)


def _facts(done: Moved) -> dict[str, Any]:
    return {
        "grants": done.grants,
        "keys": done.keys,
        "repaired": done.repaired,
        "unanswered": dict(done.unanswered or {}),
        "unproved": done.unproved,
        "unproved_old": done.unproved_old,
    }


def _sentences(result: dict[str, Any]) -> list[str]:
    """Return what a person reads at the end: what was done, what to do next, and what to beware of."""
    to, origin = result["to"], result["from"]
    if result["status"] == "aborted":
        left = "" if result["cleared"] else f" What was copied could not be removed from {to}: it is of no use there."
        return [f"The move is aborted: brokers go on with {origin}.{left}"]
    if result["status"] == "already_moved":
        return [f"The store is at {to} already. {_next(result)}"]
    counts = f"{result['grants']} grants ({result['keys']} keys)"
    lines = [
        f"Moved {counts} to {to} in {result['seconds']} s: every key was compared.",
        _next(result),
        f"The store at {origin} is marked as left: no broker refreshes anything with it. Remove it once all is well.",
    ]
    beware = [
        f"{count} token requests of {replica} had no recorded outcome. Restart that broker first, with its data_dir: "
        "its journal may hold the responses."
        for replica, count in result["unanswered"].items()
    ]
    if why := result["unproved"]:
        beware.append(f"nothing proves that {to} has it on its disk ({why}): keep the old store.")
    if why := result["unproved_old"]:
        beware.append(f"nothing proves that {origin} keeps the mark ({why}): do not restart it, remove its data.")
    return [*lines, *(f"Beware: {sentence}" for sentence in beware)]


def _next(result: dict[str, Any]) -> str:
    keys = f', and sealing.keys_file = "{result["keys_file"]}",' if "keys_file" in result else ""
    return (
        f'Now set redis.url = "{result["to"]}" (and its user and password){keys} for every broker, and restart each '
        "with the data_dir that it has: it brings what its journal holds before it refreshes anything."
    )
