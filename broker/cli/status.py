"""`token-broker status`: the state of the broker, of its providers and of its grants on one screen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from broker.cli.console import ASKS_BROKER, TABLE_COLUMNS, app, exits, out
from broker.cli.health import problems
from broker.cli.http import broker_at, run
from broker.cli.options import Config, Json, KeyFile, Url
from broker.errors import TokenUnavailable
from broker.report.grant_facts import ownership_words
from broker.report.times import span

_MAX_ROWS = 50
_MIN_ROWS = 3
"""Grants, and providers, that even a small terminal shows."""
_PLAIN: dict[str, Any] = {"box": None, "pad_edge": False, "padding": (0, 1, 0, 0)}
_STATES = {"reauthorization_required": "log in again"}


@app.command(epilog=exits(*ASKS_BROKER))
def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Renew it every second until Ctrl-C.")] = False,
    as_json: Json = False,
    config: Config = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Show one screen: checks, providers, and the grants that need attention or are due first."""

    async def fetch_state() -> dict[str, Any]:
        async with broker_at(config, url, key_file) as broker:
            _, report = await broker.ask("GET", "/healthz")
            providers = await broker.fetch("GET", "/v1/providers")
            grants = await broker.fetch("GET", f"/v1/grants?limit={_MAX_ROWS}")
            return {"health": report, **providers, **grants}

    if not out.is_terminal:
        out.width = TABLE_COLUMNS
    if as_json:
        typer.echo(json.dumps(run(fetch_state())))
    elif watch and out.is_terminal:
        with Live(console=out, screen=True, auto_refresh=False) as live:
            while True:
                live.update(_current(fetch_state), refresh=True)
                time.sleep(1)
    elif watch:
        while True:
            out.print(_current(fetch_state))
            time.sleep(1)
    else:
        state = run(fetch_state())
        out.print(fitted(state, out.height - 1) if out.is_terminal else screen(state))


def _current(fetch_state: Callable[[], Coroutine[Any, Any, dict[str, Any]]]) -> Table | Text:
    """Return the screen as of now, or why there is none: a broker that restarts comes back."""
    try:
        state = run(fetch_state())
        return fitted(state, out.height) if out.is_terminal else screen(state)
    except TokenUnavailable as error:
        return Text(str(error))


def fitted(state: dict[str, Any], height: int) -> Table:
    """Return the screen with as many providers and grants as fit *height* lines, and at least a few of each."""
    most, providers = len(state["grants"]), max(_MIN_ROWS, height // 3)
    while True:
        table = screen(state, most=most, providers=providers)
        over = len(out.render_lines(table)) - height
        if over <= 0 or (most <= _MIN_ROWS and providers <= _MIN_ROWS):
            return table
        if most > _MIN_ROWS:
            most = max(_MIN_ROWS, most - over)
        else:
            providers = max(_MIN_ROWS, providers - 1)


def screen(state: dict[str, Any], *, most: int = _MAX_ROWS, providers: int | None = None) -> Table:
    """Return the checks, the providers and the grants as one table, which fits 80 columns.

    Args:
        state: What the broker answers: `health`, `providers`, `grants` and `next`.
        most: Number of grants to show at most.
        providers: Number of providers, and of failed checks, to show at most; None: all.
    """
    grid = Table.grid(padding=(0, 0, 1, 0))
    failed = problems(state["health"])
    if providers is not None and len(failed) > providers:
        failed = [*failed[:providers], f"… and {len(failed) - providers} more: token-broker health"]
    heading = Text.assemble("token-broker is ", (str(state["health"].get("status")), "bold"))
    grid.add_row(Text("\n  ").join([heading, *map(Text, failed)]))
    if state["providers"]:
        grid.add_row(_providers(state["providers"], providers))
    else:
        grid.add_row("no providers: add [providers.NAME] to the settings")
    if not state["grants"]:
        grid.add_row("no grants yet: token-broker login GRANT --provider P")
        return grid
    shown = state["grants"][:most]
    grid.add_row(_grants(shown, time.time()))
    total = sum(sum(provider["grants"].values()) for provider in state["providers"])
    if state["next"] or len(shown) < len(state["grants"]):
        grid.add_row(f"{len(shown)} of {total} grants: parked ones first. GET /v1/grants lists them all.")
    if any(grant["state"] == "parked" for grant in shown) or any(map(_is_missing, state["providers"])):
        grid.add_row("token-broker explain GRANT says why, and what to do.")
    return grid


def _providers(providers: list[dict[str, Any]], most: int | None) -> Table:
    """Return a table of the providers, those in trouble first, with the sums of those beyond *most* in one row."""
    table = Table("provider", "kind", "due", "leased", "parked", "state", **_PLAIN)
    ranked = sorted(
        providers,
        key=lambda p: (not p["suspended"], not p["failures"], not _is_missing(p), not p["grants"]["parked"]),
    )
    for provider in ranked[:most]:
        failures, good = provider["failures"], "ok" if _was_asked(provider) else "not asked yet"
        if not provider["kind"]:
            good = "its grants are not refreshed" if _is_missing(provider) else "-"
        failing = good if not failures else "failing: once" if failures == 1 else f"failing: {failures} in a row"
        table.add_row(
            Text(provider["provider"]),
            provider["kind"] or "not in the settings",
            *(str(provider["grants"][name]) for name in ("due", "leased", "parked")),
            Text(f"suspended: {provider['suspended']}" if provider["suspended"] else failing),
        )
    if rest := ranked[len(ranked[:most]) :]:
        sums = [str(sum(provider["grants"][name] for provider in rest)) for name in ("due", "leased", "parked")]
        troubled = sum(
            bool(provider["suspended"] or provider["failures"] or _is_missing(provider)) for provider in rest
        )
        good = "ok" if all(map(_was_asked, rest)) else "not all asked yet"
        table.add_row(f"… {len(rest)} more", "", *sums, f"{troubled} in trouble" if troubled else good)
    return table


def _is_missing(provider: dict[str, Any]) -> bool:
    """Return whether grants wait for a provider that is not in the settings."""
    return not provider["kind"] and any(provider["grants"].values())


def _was_asked(provider: dict[str, Any]) -> bool:
    """Return whether a provider has answered a request; a broker of an older version does not say."""
    return provider.get("answered_at", 0) is not None


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
            _name(grant),
            Text(grant["provider"]),
            _STATES.get(grant["reason"]) or Text(grant["reason"] or grant["state"]),
            _until(grant["expires_at"], now, past="expired"),
            "-" if grant["state"] == "parked" else _until(grant["refresh_at"], now),
            _log_in_by(grant, now),
            Text(last.get("outcome", "-")),
        )
    return table


def _name(grant: dict[str, Any]) -> Text:
    """Return the id of a grant, and below it whose the grant is, as far as that is known."""
    whose = ownership_words(grant)
    return Text.assemble(grant["grant_id"], (f"\n{whose}", "dim")) if whose else Text(grant["grant_id"])


def _log_in_by(grant: dict[str, Any], now: float) -> str:
    """Return until when a person must log in; a limit that is not near, or that each refresh moves, is not shown."""
    if grant["reason"] == "reauthorization_required":
        return "now"
    return _until(grant["reauthorize_by"], now) if grant["reauthorize_soon"] else "-"


def _until(at: int | None, now: float, *, past: str = "now") -> str:
    return "-" if at is None else span(at - now) if at > now else past
