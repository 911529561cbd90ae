"""`health` and `status`: the state of the broker, for supervisors and for people."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from broker.cli.console import ASKS_BROKER, EXIT_FAILURE, EXIT_SETTINGS, TABLE_COLUMNS, app, exits, out
from broker.cli.http import broker_at, run
from broker.cli.options import Config, Json, KeyFile, Url
from broker.cli.times import span
from broker.errors import TokenUnavailable

_HEALTH_TIMEOUT = 4.0
_ROWS = 50
_FEWEST = 3
"""Grants, and providers, that a small terminal shows too."""
_PLAIN: dict[str, Any] = {"box": None, "pad_edge": False, "padding": (0, 1, 0, 0)}
_STATES = {"reauthorization_required": "log in again"}


@app.command(epilog=exits(EXIT_SETTINGS, own={0: "alive", EXIT_FAILURE: "not alive, or no answer"}))
def health(config: Config = None, url: Url = None, as_json: Json = False) -> None:
    """Report whether the broker is alive, for the HEALTHCHECK of a container."""

    async def work() -> tuple[int, Any]:
        async with broker_at(config, url, None, keyless=True, timeout=_HEALTH_TIMEOUT) as broker:
            return await broker.ask("GET", "/healthz")

    try:
        status, report = run(work())
    except TokenUnavailable as error:
        status, report = 0, {"status": "down", "checks": {"broker": {"status": "failed", "detail": str(error)}}}
    if as_json:
        typer.echo(json.dumps(report))
    else:
        out.print("\n  ".join([str(report.get("status")), *_bad(report)]), markup=False)
    if status != 200:
        raise typer.Exit(EXIT_FAILURE)


def _bad(report: dict[str, Any]) -> list[str]:
    """What is not as it should be, a line each."""
    return [
        f"{name}: {check['detail']}" + (f" (for {span(time.time() - check['since'])})" if "since" in check else "")
        for name, check in report.get("checks", {}).items()
        if check["status"] != "ok"
    ]


@app.command(epilog=exits(*ASKS_BROKER))
def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Renew it every second until Ctrl-C.")] = False,
    as_json: Json = False,
    config: Config = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Show one screen: checks, providers, and the grants that need attention or are due first."""

    async def look() -> dict[str, Any]:
        async with broker_at(config, url, key_file) as broker:
            _, report = await broker.ask("GET", "/healthz")
            providers = await broker.get("GET", "/v1/providers")
            grants = await broker.get("GET", f"/v1/grants?limit={_ROWS}")
            return {"health": report, **providers, **grants}

    if not out.is_terminal:
        out.width = TABLE_COLUMNS
    if as_json:
        typer.echo(json.dumps(run(look())))
    elif watch and out.is_terminal:
        with Live(console=out, screen=True, auto_refresh=False) as live:
            while True:
                live.update(_seen(look), refresh=True)
                time.sleep(1)
    elif watch:
        while True:
            out.print(_seen(look))
            time.sleep(1)
    else:
        seen = run(look())
        out.print(fitted(seen, out.height - 1) if out.is_terminal else screen(seen))


def _seen(look: Callable[[], Coroutine[Any, Any, dict[str, Any]]]) -> Table | Text:
    try:
        seen = run(look())
        return fitted(seen, out.height) if out.is_terminal else screen(seen)
    except TokenUnavailable as error:  # a broker that restarts comes back
        return Text(str(error))


def fitted(seen: dict[str, Any], height: int) -> Table:
    """The screen, with no more providers and grants than fit *height* lines, but some of each."""
    most, providers = len(seen["grants"]), max(_FEWEST, height // 3)
    while True:
        made = screen(seen, most=most, providers=providers)
        over = len(out.render_lines(made)) - height
        if over <= 0 or (most <= _FEWEST and providers <= _FEWEST):
            return made
        if most > _FEWEST:
            most = max(_FEWEST, most - over)
        else:
            providers = max(_FEWEST, providers - 1)


def screen(seen: dict[str, Any], *, most: int = _ROWS, providers: int | None = None) -> Table:
    """Everything on one screen, 80 columns wide if need be: at most so many grants (*most*) and *providers*."""
    grid = Table.grid(padding=(0, 0, 1, 0))
    bad = _bad(seen["health"])
    if providers is not None and len(bad) > providers:
        bad = [*bad[:providers], f"… and {len(bad) - providers} more: token-broker health"]
    state = Text.assemble("token-broker is ", (str(seen["health"].get("status")), "bold"))
    grid.add_row(Text("\n  ").join([state, *map(Text, bad)]))
    if seen["providers"]:
        grid.add_row(_providers(seen["providers"], providers))
    else:
        grid.add_row("no providers: add [providers.NAME] to the settings")
    if not seen["grants"]:
        grid.add_row("no grants yet: token-broker login GRANT --provider P")
        return grid
    shown = seen["grants"][:most]
    grid.add_row(_grants(shown, time.time()))
    total = sum(sum(provider["grants"].values()) for provider in seen["providers"])
    if seen["next"] or len(shown) < len(seen["grants"]):
        grid.add_row(f"{len(shown)} of {total} grants: parked ones first. GET /v1/grants lists them all.")
    if any(grant["state"] == "parked" for grant in shown):
        grid.add_row("token-broker explain GRANT says why, and what to do.")
    return grid


def _providers(providers: list[dict[str, Any]], most: int | None) -> Table:
    """Providers as a table, those in trouble first; what does not fit is counted."""
    table = Table("provider", "kind", "due", "leased", "parked", "state", **_PLAIN)
    ranked = sorted(providers, key=lambda p: (not p["suspended"], not p["failures"], not p["grants"]["parked"]))
    for provider in ranked[:most]:
        failing = f"failing: {provider['failures']} in a row" if provider["failures"] else "ok"
        table.add_row(
            Text(provider["provider"]),
            provider["kind"] or "not in the settings",
            *(str(provider["grants"][name]) for name in ("due", "leased", "parked")),
            Text(f"suspended: {provider['suspended']}" if provider["suspended"] else failing),
        )
    if rest := ranked[len(ranked[:most]) :]:
        sums = [str(sum(provider["grants"][name] for provider in rest)) for name in ("due", "leased", "parked")]
        troubled = sum(bool(provider["suspended"] or provider["failures"]) for provider in rest)
        table.add_row(f"… {len(rest)} more", "", *sums, f"{troubled} in trouble" if troubled else "ok")
    return table


def _grants(grants: list[dict[str, Any]], now: float) -> Table:
    table = Table(
        Column("grant", overflow="fold"),
        Column("provider", overflow="fold"),
        "state",
        "life",
        "refresh",
        "log in by",
        "last",
        **_PLAIN,
    )
    for grant in grants:
        last = grant["last"] or {}
        table.add_row(
            Text(grant["grant_id"]),
            Text(grant["provider"]),
            _STATES.get(grant["reason"]) or Text(grant["reason"] or grant["state"]),
            _until(grant["expires_at"], now),
            "-" if grant["state"] == "parked" else _until(grant["refresh_at"], now),
            _until(grant["reauthorize_by"], now),
            Text(last.get("outcome", "-")),
        )
    return table


def _until(at: int | None, now: float) -> str:
    return "-" if at is None else span(at - now) if at > now else "now"
