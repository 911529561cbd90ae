"""`token-broker explain`: the state of a grant, what happens next and when, and what a person must do."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from broker.cli.console import EXIT_SETTINGS, TABLE_COLUMNS, app, exits, out
from broker.cli.http import Broker, broker_at, grant_path, run
from broker.cli.options import Config, GrantId, Json, KeyFile, Url
from broker.report.attempts import decision, outcome
from broker.report.explanation import EXITS, Explanation, explain
from broker.report.grant_facts import ownership_words
from broker.report.times import clock


@app.command("explain", epilog=exits(EXIT_SETTINGS, own=EXITS))
def explain_grant(
    grant: GrantId,
    as_json: Json = False,
    config: Config = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Explain a grant: its last token requests, what happens next and when, and what a person must do."""

    async def work() -> tuple[Any, Any, Any]:
        async with broker_at(config, url, key_file) as broker:
            return await fetch_facts(broker, grant)

    described, past, provider = run(work())
    now = past["now"] if past else time.time()
    explanation = explain(grant, described, past, provider, now)
    if as_json:
        attempts = [{**attempt, "meaning": outcome(attempt)} for attempt in (past or {}).get("attempts", [])]
        whose = {name: (described or {}).get(name) for name in ("account", "owner", "label")}
        typer.echo(json.dumps({"grant_id": grant, **asdict(explanation), **whose, "attempts": attempts}))
    else:
        _show(explanation, past, now, ownership_words(described or {}))
    if explanation.exit_code:
        raise typer.Exit(explanation.exit_code)


async def fetch_facts(broker: Broker, grant: str) -> tuple[Any, Any, Any]:
    """Return a grant, its attempts and its provider as *broker* describes them, None for each that is not there.

    Raises:
        BrokerError: the broker's error.
    """
    described = await _fetch_or_none(broker, grant_path(grant))
    if described is not None and "failures" not in described:
        described["failures"] = described.get("attempts", 0)  # a broker of the version before calls them attempts
    past = await _fetch_or_none(broker, grant_path(grant, "/attempts"))
    providers = (await broker.fetch("GET", "/v1/providers"))["providers"]
    name = (described or {}).get("provider")
    return described, past, next((p for p in providers if p["provider"] == name), None)


async def _fetch_or_none(broker: Broker, path: str) -> Any:
    status, body = await broker.ask("GET", path)
    if status == 404:
        return None
    if status != 200:
        raise broker.error_of(status, body)
    return body


def _show(explanation: Explanation, past: Any, now: float, whose: str) -> None:
    if not out.is_terminal:
        out.width = TABLE_COLUMNS
    out.print(explanation.why, markup=False)
    if whose:
        out.print(f"It is of {whose}.", markup=False)
    attempts = (past or {}).get("attempts", [])
    if attempts:
        table = Table.grid(padding=(0, 2, 0, 0))
        for attempt in attempts:
            by = f"by {attempt['replica']}" if attempt["replica"] else ""
            words = f"{outcome(attempt)}: {decision(attempt, now)}"
            table.add_row("", clock(attempt["at"], now), Text(words), Text(by, style="dim"))
        out.print("Last token requests:")
        out.print(table, soft_wrap=False)
    if explanation.next:
        out.print(f"Next: {explanation.next}", markup=False)
    out.print(f"For a person to do: {explanation.person}.", markup=False)
    if explanation.command:
        out.print(f"    {explanation.command}", markup=False)
