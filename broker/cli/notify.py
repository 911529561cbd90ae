"""`notify test`."""

from __future__ import annotations

import json
from typing import Any

import typer

from broker.cli.http import broker_at, run
from broker.cli.main import EXIT_FAILURE, app, out
from broker.cli.options import Config, Json, KeyFile, Url
from broker.errors import InvalidSettings

notify = typer.Typer(help="Notices: telling people what is wrong.", no_args_is_help=True)
app.add_typer(notify, name="notify")
_PATIENCE = 330.0
"""Seconds: more than notify.timeout may be."""


@notify.command("test")
def notify_test(as_json: Json = False, config: Config = None, url: Url = None, key_file: KeyFile = None) -> None:
    """Have the running broker send a test notice by every way. Exit 1: one did not arrive; 78: there is no way."""

    async def work() -> Any:
        async with broker_at(config, url, key_file, timeout=_PATIENCE) as broker:
            return await broker.get("POST", "/v1/notify/test")

    told = run(work())
    if as_json:
        typer.echo(json.dumps(told))
    if not told["ways"]:
        raise InvalidSettings("the broker tells nobody: give notify.webhook or notify.command, and restart it")
    if not as_json:
        for way in told["ways"]:
            out.print(f"{way['way']}: {'told' if way['told'] else 'not told'} ({way['detail']})", markup=False)
    if not all(way["told"] for way in told["ways"]):
        raise typer.Exit(EXIT_FAILURE)
