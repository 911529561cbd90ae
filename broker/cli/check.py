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

    path = config_path(config)
    files, variables = _read_from(path)
    try:
        settings = load(config)
    except InvalidSettings as error:
        findings = [from_error(sentence) for sentence in error.findings]
    else:
        findings = list(checks.offline(settings, settings_file.origins(path), settings_file.files(path)))
        if online:
            findings += run(checks.online(settings))
    code = checks.exit_code(findings, strict=strict)
    if as_json:
        read = {"files": [str(file) for file in files], "variables": variables}
        typer.echo(json.dumps({"exit": code, "findings": [finding.to_json() for finding in findings], **read}))
    else:
        for finding in findings:
            out.print(str(finding), markup=False)
        hint = "" if online else " Use --online to try every connection."
        where = _sources(files, variables)
        out.print(f"{checks.summary(findings)}{where and f' in {where}'}.{hint}", markup=False)
    return code


def _read_from(path: Path | None) -> tuple[list[Path], list[str]]:
    """Return the files and variables that were read; none where the settings file cannot be: a finding says that."""
    try:
        return settings_file.read_from(path)
    except InvalidSettings:
        return [] if path is None else [path.absolute()], []


def _sources(files: list[Path], variables: list[str]) -> str:
    """Return in words what was read: the settings file, how many others it includes, and the variables over it."""
    parts = [str(files[0])] if files else []
    if len(files) > 1:
        parts.append("the file that it includes" if len(files) == 2 else f"the {len(files) - 1} files that it includes")
    parts += variables
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)
