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
from broker.cli.http import REPORT_TIMEOUT, Broker, broker_at, grant_path, run
from broker.cli.options import Config, GrantId, Json, KeyFile, Url
from broker.report.attempts import decision, outcome
from broker.report.explanation import EXITS, explain
from broker.report.grant_facts import ownership_words
from broker.report.times import clock, utc_offset


@app.command("explain", epilog=exits(EXIT_SETTINGS, own=EXITS))
def explain_grant(
    grant: GrantId,
    as_json: Json = False,
    config: Config = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Explain a grant: its last token requests, what happens next and when, and what a person must do."""

    async def work() -> dict[str, Any]:
        async with broker_at(config, url, key_file, timeout=REPORT_TIMEOUT) as broker:
            return await fetch_explanation(broker, grant)

    explained = run(work())
    if as_json:
        typer.echo(json.dumps(explained))
    else:
        _show(explained)
    if explained["exit_code"]:
        raise typer.Exit(explained["exit_code"])


async def fetch_explanation(broker: Broker, grant: str) -> dict[str, Any]:
    """Return the explanation of a grant, as `GET /v1/grants/{id}/explanation` gives it.

    A grant that *broker* does not have, and a broker of an older version, are explained here, by its other routes.
    """
    path = grant_path(grant, "/explanation")
    status, body = await broker.ask("GET", f"{path}?utc_offset={utc_offset()}")
    if status == 200:
        return {**body}
    if status != 404:
        raise broker.error_of(status, body, path)
    described, past, provider = await fetch_facts(broker, grant)
    now = past["now"] if past else time.time()
    attempts = [
        {**attempt, "meaning": outcome(attempt), "decision": decision(attempt, now)}
        for attempt in (past or {}).get("attempts", [])
    ]
    whose = {name: (described or {}).get(name) for name in ("account", "owner", "label")}
    explanation = asdict(explain(grant, described, past, provider, now))
    return {"grant_id": grant, "now": int(now), **explanation, **whose, "attempts": attempts}


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


def _show(explained: dict[str, Any]) -> None:
    if not out.is_terminal:
        out.width = TABLE_COLUMNS
    out.print(explained["why"], markup=False)
    if whose := ownership_words(explained):
        out.print(f"It is of {whose}.", markup=False)
    if attempts := explained["attempts"]:
        table = Table.grid(padding=(0, 2, 0, 0))
        for attempt in attempts:
            by = f"by {attempt['replica']}" if attempt["replica"] else ""
            words = f"{attempt['meaning']}: {attempt['decision']}"
            table.add_row("", clock(attempt["at"], explained["now"]), Text(words), Text(by, style="dim"))
        out.print("Last token requests:")
        out.print(table, soft_wrap=False)
    if explained["next"]:
        out.print(f"Next: {explained['next']}", markup=False)
    out.print(f"For a person to do: {explained['person']}.", markup=False)
    if explained["command"]:
        out.print(f"    {explained['command']}", markup=False)
