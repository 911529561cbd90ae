"""`health` and `status`: what lives and what fails, for supervisors and for people."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Table

from broker.cli.broker_http import broker_at, run
from broker.cli.main import EXIT_FAILURE, app, out
from broker.cli.options import Config, Json, KeyFile, Url
from broker.errors import BrokerError

_HEALTH_TIMEOUT = 4.0


@app.command()
def health(config: Config = None, url: Url = None, as_json: Json = False) -> None:
    """Exit 0 when the broker lives: for a container's HEALTHCHECK."""

    async def work() -> tuple[int, Any]:
        async with broker_at(config, url, None, keyless=True, timeout=_HEALTH_TIMEOUT) as broker:
            return await broker.ask("GET", "/healthz")

    try:
        status, report = run(work())
    except BrokerError as error:
        out.print(f"down: {error}", markup=False)
        raise typer.Exit(EXIT_FAILURE) from None
    if as_json:
        typer.echo(json.dumps(report))
    else:
        out.print(report["status"], markup=False)
        for name, check in report["checks"].items():
            if check["status"] != "ok":
                out.print(f"  {name}: {check['detail']} (for {_span(time.time() - check['since'])})", markup=False)
    if status != 200:  # noqa: PLR2004
        raise typer.Exit(EXIT_FAILURE)


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
            grants = await broker.get("GET", "/v1/grants?limit=50")
            return {"health": report, **providers, **grants}

    if as_json:
        typer.echo(json.dumps(run(look())))
    elif watch:
        with Live(console=out, screen=out.is_terminal, auto_refresh=False) as live:
            while True:
                live.update(screen(run(look())), refresh=True)
                try:
                    time.sleep(1)
                except KeyboardInterrupt:
                    return
    else:
        out.print(screen(run(look())))


def screen(seen: dict[str, Any]) -> Table:
    """Everything on one screen."""
    grid = Table.grid(padding=(0, 0, 1, 0))
    report = seen["health"]
    bad = [f"{name}: {check['detail']}" for name, check in report["checks"].items() if check["status"] != "ok"]
    grid.add_row(f"token-broker is [bold]{report['status']}[/bold]" + "".join(f"\n  {line}" for line in bad))
    providers = Table("provider", "kind", "due", "leased", "parked", "state", box=None, pad_edge=False)
    for provider in seen["providers"]:
        counts = provider["grants"]
        state = (
            f"suspended: {provider['suspended']}"
            if provider["suspended"]
            else "ailing"
            if provider["failures"]
            else "ok"
        )
        providers.add_row(
            provider["provider"], provider["kind"] or "not in the settings",
            *(str(counts[name]) for name in ("due", "leased", "parked")), state,
        )  # fmt: skip
    grid.add_row(providers)
    grants = Table(
        "grant", "provider", "state", "life left", "next refresh", "log in by", "last", box=None, pad_edge=False
    )
    now = time.time()
    for grant in seen["grants"]:
        last = grant["last"] or {}
        grants.add_row(
            grant["grant_id"], grant["provider"], grant["reason"] or grant["state"], _until(grant["expires_at"], now),
            "-" if grant["state"] == "parked" else _until(grant["refresh_at"], now),
            _until(grant["reauthorize_by"], now),
            last.get("outcome", "-"),
        )  # fmt: skip
    grid.add_row(grants if seen["grants"] else "no grants yet: token-broker login GRANT --provider P")
    if seen["next"]:
        grid.add_row("… and more: GET /v1/grants lists them all")
    return grid


def _until(at: int | None, now: float) -> str:
    return "-" if at is None else _span(at - now) if at > now else "now"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
