"""`health` and `status`: what lives and what fails, for supervisors and for people."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from broker.cli.broker_http import broker_at, run
from broker.cli.main import EXIT_FAILURE, app, out
from broker.cli.options import Config, Json, KeyFile, Url
from broker.errors import TryAgain

_HEALTH_TIMEOUT = 4.0
_ROWS = 50
_WIDE = 200
"""Columns off a terminal, where nothing has to be folded."""
_PLAIN: dict[str, Any] = {"box": None, "pad_edge": False, "padding": (0, 1, 0, 0)}
_STATES = {"reauthorization_required": "log in again"}


@app.command()
def health(config: Config = None, url: Url = None, as_json: Json = False) -> None:
    """Exit 0 when the broker lives: for a container's HEALTHCHECK."""

    async def work() -> tuple[int, Any]:
        async with broker_at(config, url, None, keyless=True, timeout=_HEALTH_TIMEOUT) as broker:
            return await broker.ask("GET", "/healthz")

    try:
        status, report = run(work())
    except TryAgain as error:
        status, report = 0, {"status": "down", "checks": {"broker": {"status": "failed", "detail": str(error)}}}
    if as_json:
        typer.echo(json.dumps(report))
    else:
        out.print("\n  ".join([str(report.get("status")), *_bad(report)]), markup=False)
    if status != 200:  # noqa: PLR2004
        raise typer.Exit(EXIT_FAILURE)


def _bad(report: dict[str, Any]) -> list[str]:
    """What is not as it should be, a line each."""
    return [
        f"{name}: {check['detail']}" + (f" (for {_span(time.time() - check['since'])})" if "since" in check else "")
        for name, check in report.get("checks", {}).items()
        if check["status"] != "ok"
    ]


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep it on the screen until Ctrl-C.")] = False,
    as_json: Json = False,
    config: Config = None, url: Url = None, key_file: KeyFile = None,
) -> None:  # fmt: skip
    """One screen: checks, providers, and the grants that need attention or are due first."""

    async def look() -> dict[str, Any]:
        async with broker_at(config, url, key_file) as broker:
            _, report = await broker.ask("GET", "/healthz")
            providers = await broker.get("GET", "/v1/providers")
            grants = await broker.get("GET", f"/v1/grants?limit={_ROWS}")
            return {"health": report, **providers, **grants}

    if not out.is_terminal:
        out.width = _WIDE
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
        out.print(screen(run(look())))


def _seen(look: Callable[[], Coroutine[Any, Any, dict[str, Any]]]) -> Table | Text:
    try:
        return screen(run(look()))
    except TryAgain as error:  # a broker that restarts comes back
        return Text(str(error))


def screen(seen: dict[str, Any]) -> Table:
    """Everything on one screen, 80 columns wide if need be."""
    grid = Table.grid(padding=(0, 0, 1, 0))
    report = seen["health"]
    state = Text.assemble("token-broker is ", (str(report.get("status")), "bold"))
    grid.add_row(Text("\n  ").join([state, *map(Text, _bad(report))]))
    providers = Table("provider", "kind", "due", "leased", "parked", "state", **_PLAIN)
    for provider in seen["providers"]:
        failing = f"failing: {provider['failures']} in a row" if provider["failures"] else "ok"
        providers.add_row(
            Text(provider["provider"]), provider["kind"] or "not in the settings",
            *(str(provider["grants"][name]) for name in ("due", "leased", "parked")),
            Text(f"suspended: {provider['suspended']}" if provider["suspended"] else failing),
        )  # fmt: skip
    grid.add_row(providers if seen["providers"] else "no providers: add [providers.NAME] to the settings")
    grants = Table(
        Column("grant", overflow="fold"), Column("provider", overflow="fold"),
        "state", "life", "refresh", "log in by", "last", **_PLAIN,
    )  # fmt: skip
    now = time.time()
    for grant in seen["grants"]:
        last = grant["last"] or {}
        grants.add_row(
            Text(grant["grant_id"]), Text(grant["provider"]),
            _STATES.get(grant["reason"]) or Text(grant["reason"] or grant["state"]),
            _until(grant["expires_at"], now),
            "-" if grant["state"] == "parked" else _until(grant["refresh_at"], now),
            _until(grant["reauthorize_by"], now),
            Text(last.get("outcome", "-")),
        )  # fmt: skip
    grid.add_row(grants if seen["grants"] else "no grants yet: token-broker login GRANT --provider P")
    if seen["next"]:
        grid.add_row(f"These are the first {_ROWS}: GET /v1/grants lists them all.")
    return grid


def _until(at: int | None, now: float) -> str:
    return "-" if at is None else _span(at - now) if at > now else "now"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
