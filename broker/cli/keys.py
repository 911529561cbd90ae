"""`token-broker keys`: make a sealing key, and have the broker seal all stored data with the first one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from broker.cli.console import EXIT_FAILURE, EXIT_SETTINGS, EXIT_TRY_AGAIN, app, err, exits, out
from broker.cli.http import Broker, broker_at, run
from broker.cli.new_file import create_private
from broker.cli.options import Config, Json, KeyFile, Url
from broker.secret import new_sealing_key

keys = typer.Typer(help="Make a sealing key, and seal all stored data with a new one.", no_args_is_help=True)
app.add_typer(keys, name="keys")

_RESEAL_EXITS = {EXIT_FAILURE: "the other keys are still needed, or failure"}


@keys.command("new", epilog=exits(own={EXIT_FAILURE: "the file exists, or cannot be written"}))
def new_key(
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="New file (0600) to write the key to.")
    ] = None,
) -> None:
    """Make a sealing key, and print it or write it to a new file.

    It opens every stored token: keep it as secret as those. A file that exists is not replaced.
    """
    key = new_sealing_key()
    if to is None:
        err.print("# A sealing key for sealing.keys_file (mode 0600). The first line there seals, all lines open.")
        typer.echo(key)
    else:
        create_private(to, key)
        err.print(f"The key is in {to}: set keys_file to its path below [sealing].", markup=False)


@keys.command("reseal", epilog=exits(EXIT_TRY_AGAIN, EXIT_SETTINGS, own=_RESEAL_EXITS))
def reseal(as_json: Json = False, config: Config = None, url: Url = None, key_file: KeyFile = None) -> None:
    """Let the running broker seal all stored data with the first key, so that you can remove the others.

    You can interrupt it and run it again at any time.
    """

    async def work() -> dict[str, Any]:
        columns = (SpinnerColumn(), TextColumn("{task.description}"))
        quiet = as_json or not err.is_terminal
        async with broker_at(config, url, key_file) as broker:
            with Progress(*columns, console=err, disable=quiet, transient=True) as progress:
                return await _reseal(broker, progress)

    result = run(work())
    if as_json:
        typer.echo(json.dumps(result))
    else:
        out.print(f"{result['grants_resealed']} grants and {result['logins_resealed']} pending logins resealed.")
        out.print(f"{result['detail'][:1].upper()}{result['detail'][1:]}.", markup=False)
    if not result["old_keys_may_go"]:
        raise typer.Exit(EXIT_FAILURE)


async def _reseal(broker: Broker, progress: Progress) -> dict[str, Any]:
    """Ask for one part after another until the broker has walked all; return its last answer with the sums."""
    task = progress.add_task("resealing", total=None)
    body: dict[str, Any] = {}
    grants = logins = seen = 0
    while True:
        part = await broker.fetch("POST", "/v1/sealing/reseal", json=body)
        grants, logins = grants + part["grants_resealed"], logins + part["logins_resealed"]
        seen += part["grants"]
        progress.update(task, description=f"pass {part['pass']}: {seen} grants seen, {grants} resealed")
        if part["next"] is None:
            return {**part, "grants_resealed": grants, "logins_resealed": logins}
        body = {"cursor": part["next"]}
