"""`token-broker health`: whether the broker is alive, for the HEALTHCHECK of a container."""

from __future__ import annotations

import json
import time
from typing import Any

import typer

from broker.cli.console import EXIT_FAILURE, EXIT_SETTINGS, app, exits, out
from broker.cli.http import broker_at, run
from broker.cli.options import Config, Json, Url
from broker.errors import TokenUnavailable
from broker.report.times import span

_TIMEOUT = 4.0
"""Seconds: less than supervisors usually give a health check."""


@app.command(epilog=exits(EXIT_SETTINGS, own={0: "alive", EXIT_FAILURE: "not alive, or no answer"}))
def health(config: Config = None, url: Url = None, as_json: Json = False) -> None:
    """Report whether the broker is alive, for the HEALTHCHECK of a container."""

    async def work() -> tuple[int, Any]:
        async with broker_at(config, url, None, keyless=True, timeout=_TIMEOUT) as broker:
            return await broker.ask("GET", "/healthz")

    try:
        status, report = run(work())
    except TokenUnavailable as error:
        status, report = 0, {"status": "down", "checks": {"broker": {"status": "failed", "detail": str(error)}}}
    if as_json:
        typer.echo(json.dumps(report))
    else:
        verdict = report.get("verdict", {})
        summary = [verdict["summary"]] if verdict.get("status", "ok") != "ok" else []
        out.print("\n  ".join([str(report.get("status")), *summary, *problems(report)]), markup=False)
    if status != 200:
        raise typer.Exit(EXIT_FAILURE)


def problems(report: dict[str, Any]) -> list[str]:
    """Return one line for each check of a health report that failed; what follows from a Redis away is not repeated."""
    checks = report.get("checks", {})
    away = checks.get("redis", {}).get("status", "ok") != "ok"
    return [
        f"{name}: {check['detail']}" + (f" (for {span(time.time() - check['since'])})" if "since" in check else "")
        for name, check in checks.items()
        if check["status"] not in {"ok", "unknown"} and not (away and name != "redis" and "Redis" in check["detail"])
    ]
