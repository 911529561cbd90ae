"""`token-broker status`: the verdict on the broker, and on one screen why, its providers and its most urgent grants."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.text import Text

from broker.cli.console import ASKS_BROKER, EXIT_FAILURE, EXIT_SETTINGS, TABLE_COLUMNS, app, exits, out
from broker.cli.http import REPORT_TIMEOUT, broker_at, run
from broker.cli.options import Config, Json, KeyFile, Url
from broker.cli.status_screen import MAX_ROWS, fitted, screen, sentences
from broker.errors import TokenUnavailable
from broker.report.times import utc_offset
from broker.report.verdict import EXIT_CODES

if TYPE_CHECKING:
    from rich.table import Table

    from broker.cli.http import Broker

_EXITS = {
    0: "every grant has a valid token",
    1: "a person must correct something",
    75: "it recovers by itself, or no broker answers",
    77: "a person must log in",
}
_NO_VERDICT = {
    "status": "unknown",
    "summary": "This broker is of an older version, which gives no verdict (GET /v1/verdict): upgrade it, or use the "
    "token-broker of its version. What follows is what it says.",
    "causes": [],
}


@app.command(epilog=exits(*(code for code in ASKS_BROKER if code == EXIT_SETTINGS), own=_EXITS))
def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Renew it every second until Ctrl-C.")] = False,
    every: Annotated[bool, typer.Option("--all", "-a", help="List grants that are alive one by one, too.")] = False,
    as_json: Json = False,
    config: Config = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Show one screen: the verdict, its causes, the providers, and the grants, the most urgent first."""

    async def fetch_state() -> dict[str, Any]:
        async with broker_at(config, url, key_file, timeout=REPORT_TIMEOUT) as broker:
            return await _fetch(broker) | {"every": every}

    if watch and not as_json:
        _watch(fetch_state)
    state = run(fetch_state())
    if as_json:
        del state["every"]
        typer.echo(json.dumps(state))
    else:
        _print(state)
    if code := EXIT_CODES.get(state["verdict"]["status"], EXIT_FAILURE):
        raise typer.Exit(code)


async def _fetch(broker: Broker) -> dict[str, Any]:
    """Return the verdict; beside it the checks, and while Redis answers, the providers and the most urgent grants."""
    code, verdict = await broker.ask("GET", f"/v1/verdict?utc_offset={utc_offset()}")
    if code not in {200, 404}:
        raise broker.error_of(code, verdict, "/v1/verdict")
    state = {"verdict": verdict if code == 200 else _NO_VERDICT, "providers": None, "grants": None, "next": None}
    _, state["health"] = await broker.ask("GET", "/healthz")
    if code == 200 and verdict["grants"] is None:
        return state  # the routes below would wait for Redis, too
    order = "&order=urgent" if code == 200 else ""
    try:
        state |= await broker.fetch("GET", "/v1/providers")
        state |= await broker.fetch("GET", f"/v1/grants?limit={MAX_ROWS}{order}")
    except TokenUnavailable:
        if code != 200:
            raise
    return state


def _watch(fetch_state: Callable[[], Coroutine[Any, Any, dict[str, Any]]]) -> None:
    """Show the screen every second, until Ctrl-C."""
    if out.is_terminal:
        with Live(console=out, screen=True, auto_refresh=False) as live:
            while True:
                live.update(_current(fetch_state), refresh=True)
                time.sleep(1)
    while True:
        try:
            _print(run(fetch_state()))
        except TokenUnavailable as error:
            out.print(str(error), markup=False)
        time.sleep(1)


def _print(state: dict[str, Any]) -> None:
    """Print the screen: all that fits a terminal, or all of it, with a line for each sentence."""
    if out.is_terminal:
        out.print(fitted(state, out.height - 1))
        return
    out.width = max(TABLE_COLUMNS, *(len(line) for line in sentences(state["verdict"])))
    out.print(screen(state))


def _current(fetch_state: Callable[[], Coroutine[Any, Any, dict[str, Any]]]) -> Table | Text:
    """Return the screen as of now, or why there is none: a broker that restarts comes back."""
    try:
        return fitted(run(fetch_state()), out.height)
    except TokenUnavailable as error:
        return Text(str(error))
