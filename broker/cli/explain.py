"""`explain`: the state of a grant, what happens next and when, and what a person must do."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from broker.cli.console import EXIT_SETTINGS, TABLE_COLUMNS, app, exits, out
from broker.cli.explanation import EXITS, Explained, decision, explain, meaning
from broker.cli.grants import grant_path
from broker.cli.http import Broker, broker_at, error_of, run
from broker.cli.options import Config, GrantId, Json, KeyFile, Url
from broker.cli.times import clock


@app.command("explain", epilog=exits(EXIT_SETTINGS, own=EXITS))
def explain_grant(
    grant: GrantId,
    as_json: Json = False,
    config: Config = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Explain a grant: its last token requests, what happens next and when, and what a person must do."""

    async def look() -> tuple[Any, Any, Any]:
        async with broker_at(config, url, key_file) as broker:
            return await known_of(broker, grant)

    described, past, provider = run(look())
    now = past["now"] if past else time.time()
    explained = explain(grant, described, past, provider, now)
    if as_json:
        attempts = [{**attempt, "meaning": meaning(attempt)} for attempt in (past or {}).get("attempts", [])]
        typer.echo(json.dumps({"grant_id": grant, **asdict(explained), "attempts": attempts}))
    else:
        _show(explained, past, now)
    if explained.exit_code:
        raise typer.Exit(explained.exit_code)


async def known_of(broker: Broker, grant: str) -> tuple[Any, Any, Any]:
    """A grant, its attempts and its provider as *broker* describes them, None for what is not there.

    Raises the broker's error.
    """
    described = await _or_none(broker, grant_path(grant))
    past = await _or_none(broker, grant_path(grant, "/attempts"))
    providers = (await broker.get("GET", "/v1/providers"))["providers"]
    name = (described or {}).get("provider")
    return described, past, next((p for p in providers if p["provider"] == name), None)


async def _or_none(broker: Broker, path: str) -> Any:
    """What is there, or None where nothing is."""
    status, body = await broker.ask("GET", path)
    if status == 404:
        return None
    if status != 200:
        raise error_of(status, body)
    return body


def _show(explained: Explained, past: Any, now: float) -> None:
    if not out.is_terminal:
        out.width = TABLE_COLUMNS
    out.print(explained.why, markup=False)
    attempts = (past or {}).get("attempts", [])
    if attempts:
        table = Table.grid(padding=(0, 2, 0, 0))
        for attempt in attempts:
            by = f"by {attempt['replica']}" if attempt["replica"] else ""
            told = f"{meaning(attempt)}: {decision(attempt, now)}"
            table.add_row("", clock(attempt["at"], now), Text(told), Text(by, style="dim"))
        out.print("Last token requests:")
        out.print(table, soft_wrap=False)
    out.print(f"Next: {explained.next}", markup=False)
    out.print(f"For a person to do: {explained.person}.", markup=False)
    if explained.command:
        out.print(f"    {explained.command}", markup=False)
