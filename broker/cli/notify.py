"""`token-broker notify test`: send a test notice through every channel."""

from __future__ import annotations

import json
from typing import Any

import typer

from broker.cli.console import EXIT_FAILURE, EXIT_SETTINGS, EXIT_TRY_AGAIN, app, exits, out
from broker.cli.http import broker_at, run
from broker.cli.options import Config, Json, KeyFile, Url
from broker.errors import InvalidSettings

notify = typer.Typer(help="Try the channels that send notices to people.", no_args_is_help=True)
app.add_typer(notify, name="notify")

_TIMEOUT = 330.0
"""Seconds for the request: more than notify.timeout may be."""
_EXITS = {
    0: "every channel accepted it",
    EXIT_FAILURE: "a channel did not accept it, or failure",
    EXIT_SETTINGS: "no channel is configured, or invalid settings",
}


@notify.command("test", epilog=exits(EXIT_TRY_AGAIN, own=_EXITS))
def notify_test(as_json: Json = False, config: Config = None, url: Url = None, key_file: KeyFile = None) -> None:
    """Let the running broker send a test notice by every channel."""

    async def work() -> Any:
        async with broker_at(config, url, key_file, timeout=_TIMEOUT) as broker:
            return await broker.fetch("POST", "/v1/notify/test")

    result = run(work())
    if as_json:
        typer.echo(json.dumps(result))
    channels = result["ways"]
    if not channels:
        raise InvalidSettings(
            "the broker has no channel for notices: set notify.webhook, notify.command or [notify.channels.NAME], "
            "and restart it"
        )
    if not as_json:
        for channel in channels:
            verdict = "accepted" if channel["told"] else "not accepted"
            out.print(f"{channel['way']}: {verdict} ({channel['detail']})", markup=False)
    if not all(channel["told"] for channel in channels):
        raise typer.Exit(EXIT_FAILURE)
