"""`token-broker demo`: embedded store, sandbox provider and broker in one process, with a live view.

The only module that brings these three together. Its files are in a temporary directory, which it removes at the end.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from broker.cli.console import EXIT_FAILURE, EXIT_SETTINGS, app, exits, out
from broker.cli.http import Broker, broker_at
from broker.cli.run import run_loop
from broker.errors import BrokerError, InvalidSettings
from broker.process import logs, memory_image
from broker.process.signals import Signals
from broker.settings import file as settings_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.sandbox import Authority, Sandbox

_GRANTS = {"demo-cameras": "cameramanager", "demo-een": "een", "demo-oidc": "acme"}
_INTERVAL = 0.25
"""Seconds between two requests for the grants."""
_REFRESH_NEAR, _END_NEAR = 0.3, 0.1
"""Parts of a token's life that are left when its bar turns yellow and red."""
_ENDLESS = 1e9
"""Seconds that the demo runs where no option ends it."""

_SETTINGS = """
data_dir = "{directory}/data"
[http]
listen = ["127.0.0.1:{port}"]
public_url = "http://127.0.0.1:{port}"
drain_delay = "0s"
[redis]
url = "embedded:"
[refresh]
min_interval = "2s"
report_budget = 1800
[log]
level = "warning"
[providers.cameramanager]
kind = "cameramanager"
client_id = "{camera.client_id}"
client_secret = "{camera.client_secret}"
authorization_endpoint = "{sandbox.url}/oauth/authorize"
token_endpoint = "{sandbox.url}/oauth/token"
logout_endpoint = "{sandbox.url}/rest/v2.0/users/self/tokens/current"
[providers.een]
kind = "een-v3"
client_id = "{v3.client_id}"
client_secret = "{v3.client_secret}"
authorization_endpoint = "{sandbox.url}/v3/oauth2/authorize"
token_endpoint = "{sandbox.url}/v3/oauth2/token"
revocation_endpoint = "{sandbox.url}/v3/oauth2/revoke"
[providers.acme]
kind = "oidc"
issuer = "{rotating.issuer}"
client_id = "{rotating.client_id}"
client_secret = "{rotating.client_secret}"
"""


@app.command(epilog=exits(EXIT_FAILURE, EXIT_SETTINGS))
def demo(
    lifetime: Annotated[
        float, typer.Option(min=2, max=30, metavar="SECONDS", help="Lifetime of an access token in seconds.")
    ] = 20,
    seconds: Annotated[
        float | None,
        typer.Option(min=1, metavar="SECONDS", help="Stop after this many seconds.", show_default="at Ctrl-C"),
    ] = None,
) -> None:
    """See it work: a store, an authorization server, three logins, and tokens that are refreshed while you watch."""
    memory_image.protect()
    for name in list(os.environ):
        if name.startswith("TOKEN_BROKER_"):
            del os.environ[name]  # the demo has settings of its own, whatever the environment holds
    try:
        temporary = tempfile.TemporaryDirectory(prefix="token-broker-")
    except OSError as error:
        raise InvalidSettings(
            f"the demo cannot make a temporary directory ({error.strerror or error}): set TMPDIR to one that it may "
            "write to"
        ) from None
    with temporary as directory:
        run_loop(_demo(Path(directory), lifetime, seconds))
    out.print("The demo has stopped everything and removed its files.")


async def _demo(directory: Path, lifetime: float, seconds: float | None) -> None:
    """Run sandbox, broker and view in *directory*. Defers redis and the server of aiohttp, which they load.

    Args:
        directory: Where the settings, the data and the log go.
        lifetime: Seconds that an access token lives.
        seconds: How long to run; None: until a signal ends it.
    """
    from broker import service
    from broker.sandbox import Sandbox

    async with Sandbox(access_lifetime=lifetime) as sandbox:
        path = directory / "broker.toml"
        path.write_text(_settings(directory, sandbox), "utf-8")
        settings = settings_file.load(path)
        with (directory / "broker.log").open("w", encoding="utf-8") as file:
            logs.set_up(settings.log, file)
            signals = Signals()
            signals.hurried = True
            try:
                async with asyncio.TaskGroup() as group:
                    broker = group.create_task(service.serve(settings, signals))
                    show = group.create_task(_show(directory, path, signals, seconds))
                    broker.add_done_callback(lambda _: show.cancel())
            finally:
                logs.set_up(settings.log)


def _settings(directory: Path, sandbox: Sandbox) -> str:
    authorities: dict[str, Authority] = {
        "camera": sandbox.cameramanager,
        "v3": sandbox.v3,
        "rotating": sandbox.rotating,
    }
    return _SETTINGS.format(directory=directory, port=_free_port(), sandbox=sandbox, **authorities)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _show(directory: Path, config: Path, signals: Signals, seconds: float | None) -> None:
    """Log in three times, then show the grants for *seconds* or until a signal, and stop the broker."""
    try:
        await _wait_until_ready(config, directory)
        async with broker_at(config, None, None) as broker:
            for grant, provider in _GRANTS.items():
                await _log_in(broker, grant, provider)
            header = directory / "key.header"
            header.touch(mode=0o600)
            key = directory / "data" / "admin.key"
            header.write_text(f"X-Broker-Key: {key.read_text().strip()}\n")
            out.print(f"Status page: {_url(config)}/ (sign in with the key that `cat {key}` prints)", markup=False)
            out.print("Fetch a token yourself, in another terminal:")
            out.print(f"curl -fsS -H @{header} {_url(config)}/v1/grants/demo-cameras/token", markup=False)
            out.print("Ctrl-C ends everything.")
            ends = time.monotonic() + (seconds or _ENDLESS)
            await (_live if out.is_terminal else _lines)(broker, signals, ends)
    except BrokerError:
        if not signals.stopping.is_set():  # a broker that stops may break off its response
            raise
    finally:
        signals.stopping.set()


async def _wait_until_ready(config: Path, directory: Path) -> None:
    key = directory / "data" / "admin.key"
    while not key.exists():
        await asyncio.sleep(0.02)
    async with broker_at(config, None, None) as broker:
        while True:
            try:
                if (await broker.ask("GET", "/readyz"))[0] == 200:
                    return
            except BrokerError:
                pass
            await asyncio.sleep(0.02)


async def _log_in(broker: Broker, grant: str, provider: str) -> None:
    """Log in as a person would, by following the link. Defers the server of aiohttp, which the sandbox loads."""
    from broker.sandbox import walk_login

    started = await broker.fetch("POST", f"/v1/grants/{grant}/login", json={"provider": provider})
    await walk_login(started["login_url"])
    out.print(
        f"Logged in {grant} at {provider} (the demo followed {started['login_url']} in place of a person)", markup=False
    )


def _url(config: Path) -> str:
    line = next(row for row in config.read_text("utf-8").splitlines() if row.startswith("public_url"))
    return line.split('"')[1]


async def _live(broker: Broker, signals: Signals, ends: float) -> None:
    generations: dict[str, set[int]] = {name: set() for name in _GRANTS}
    with Live(console=out, auto_refresh=False) as live:
        async for grants in _snapshots(broker, signals, ends):
            for grant in grants:
                generations[grant["grant_id"]].add(grant["generation"])
            live.update(_table(grants, generations), refresh=True)


async def _lines(broker: Broker, signals: Signals, ends: float) -> None:
    printed: dict[str, int] = {}
    async for grants in _snapshots(broker, signals, ends):
        for grant in grants:
            name, generation = grant["grant_id"], grant["generation"]
            if printed.get(name) != generation:
                left = (grant["expires_at"] or 0) - time.time()
                words = "logged in" if name not in printed else "refreshed"
                out.print(
                    f"{name} {words} generation={generation} provider={grant['provider']} expires_in={left:.0f}s",
                    markup=False,
                )
                printed[name] = generation


async def _snapshots(broker: Broker, signals: Signals, ends: float) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield the grants again and again until *ends* (monotonic seconds) or a signal."""
    while time.monotonic() < ends and not signals.stopping.is_set():
        yield (await broker.fetch("GET", "/v1/grants"))["grants"]
        try:
            await asyncio.wait_for(signals.stopping.wait(), _INTERVAL)
        except TimeoutError:
            pass


def life_style(part: float) -> str:
    """Return the colour of a token's bar: green while nothing has to happen, yellow near its refresh, red near its end.

    Args:
        part: The part of its life that is left, 0 to 1. A token is refreshed when about a quarter is left.
    """
    return "green" if part > _REFRESH_NEAR else "yellow" if part > _END_NEAR else "red"


def _table(grants: list[dict[str, Any]], generations: dict[str, set[int]]) -> Table:
    table = Table("grant", "provider", "life left", "", "refreshed", "next", "last", box=None, pad_edge=False)
    now = time.time()
    for grant in sorted(grants, key=lambda g: str(g["grant_id"])):
        life = max(1, (grant["expires_at"] or 0) - (grant["issued_at"] or 0))
        left = max(0.0, (grant["expires_at"] or 0) - now)
        last, style = grant["last"] or {"outcome": "logged in"}, life_style(left / life)
        due = f"in {max(0.0, grant['refresh_at'] - now):.0f} s"
        table.add_row(
            grant["grant_id"],
            grant["provider"],
            ProgressBar(life, left, width=14, complete_style=style, finished_style=style),
            f"{left:.0f} s",
            f"{len(generations[grant['grant_id']]) - 1} times",
            due if grant["state"] == "due" else grant["state"],
            str(last["outcome"]),
        )
    return table
