"""`check`: find what is wrong before it matters."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from broker.cli.http import run
from broker.cli.main import EXIT_FAILURE, EXIT_SETTINGS, app, exits, out
from broker.cli.options import Config, Json, config_path, load
from broker.errors import InvalidSettings
from broker.settings import file as settings_file

_EXITS = {
    0: "nothing is wrong",
    EXIT_FAILURE: "a connection failed, or with --strict there is a warning",
    EXIT_SETTINGS: "settings or files are wrong",
}
"""What `check.exit_code` returns."""


@app.command(epilog=exits(own=_EXITS))
def check(
    online: Annotated[bool, typer.Option("--online", help="Also try every connection: Redis, each provider.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 for a warning too.")] = False,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Check settings, files and, with --online, connections: what is wrong, why it matters, and how to correct it.

    It changes nothing.
    """
    from broker import check as checking
    from broker.check.finding import from_error

    try:
        settings = load(config)
    except InvalidSettings as error:
        findings = [from_error(sentence) for sentence in error.findings]
    else:
        findings = list(checking.offline(settings, settings_file.origins(config_path(config))))
        if online:
            findings += run(checking.online(settings))
    code = checking.exit_code(findings, strict=strict)
    if as_json:
        typer.echo(json.dumps({"exit": code, "findings": [finding.to_json() for finding in findings]}))
    else:
        for finding in findings:
            out.print(str(finding), markup=False)
        out.print(
            f"{checking.summary(findings)}.{'' if online else ' Connections are tried by --online.'}", markup=False
        )
    if code:
        raise typer.Exit(code)
