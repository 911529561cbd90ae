"""`token-broker check`: report what is wrong before it matters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.console import EXIT_FAILURE, EXIT_SETTINGS, app, exits, out
from broker.cli.http import run
from broker.cli.options import Config, Json, config_path, load
from broker.errors import InvalidSettings
from broker.settings import file as settings_file

_EXITS = {
    0: "nothing is wrong",
    EXIT_FAILURE: "a connection failed, or with --strict there is a warning",
    EXIT_SETTINGS: "settings or files are wrong",
}
"""What `broker.check.exit_code` returns."""


@app.command(epilog=exits(own=_EXITS))
def check(
    online: Annotated[
        bool, typer.Option("--online", help="Also try every connection: Redis, public_url, each provider.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 for a warning too.")] = False,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Check settings, files and, with --online, connections: what is wrong, why it matters, and how to correct it.

    It changes nothing.
    """
    if code := _check(config, online=online, strict=strict, as_json=as_json):
        raise typer.Exit(code)


def _check(config: Path | None, *, online: bool, strict: bool, as_json: bool) -> int:
    """Print every finding, and return the exit code. Defers redis, which only the checks load."""
    from broker import check as checks
    from broker.check.finding import from_error

    try:
        settings = load(config)
    except InvalidSettings as error:
        findings = [from_error(sentence) for sentence in error.findings]
    else:
        path = config_path(config)
        findings = list(checks.offline(settings, settings_file.origins(path), settings_file.files(path)))
        if online:
            findings += run(checks.online(settings))
    code = checks.exit_code(findings, strict=strict)
    if as_json:
        typer.echo(json.dumps({"exit": code, "findings": [finding.to_json() for finding in findings]}))
    else:
        for finding in findings:
            out.print(str(finding), markup=False)
        hint = "" if online else " Use --online to try every connection."
        out.print(f"{checks.summary(findings)}.{hint}", markup=False)
    return code
