"""`keys new`, `keys reseal` and `caller new`: sealing keys, and keys of callers."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.progress import Progress, SpinnerColumn, TextColumn

from broker.cli.console import EXIT_FAILURE, EXIT_SETTINGS, EXIT_TRY_AGAIN, app, err, exits, out
from broker.cli.http import broker_at, run
from broker.cli.options import Config, Json, KeyFile, Url
from broker.secret import key_digest, new_caller_key, new_sealing_key
from broker.settings import Caller
from broker.settings.values import Name

keys = typer.Typer(help="Sealing keys.", no_args_is_help=True)
callers = typer.Typer(help="Callers: services and persons that ask the broker.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(callers, name="caller")


_RESEAL_EXITS = {EXIT_FAILURE: "the other keys are still needed, or failure"}


def _patterns(right: str) -> Any:
    words = Caller.model_fields[right].description or ""
    return typer.Option(metavar="PATTERN", help=f"{words[:1].upper()}{words[1:]}; may be repeated.")


@keys.command("new", epilog=exits())
def new_key() -> None:
    """Print a new sealing key on the last line. It opens every stored token: keep it as secret as those."""
    err.print("# a sealing key: put it into sealing.keys_file (mode 0600), first line seals, all lines open")
    typer.echo(new_sealing_key())


@keys.command("reseal", epilog=exits(EXIT_TRY_AGAIN, EXIT_SETTINGS, own=_RESEAL_EXITS))
def reseal(as_json: Json = False, config: Config = None, url: Url = None, key_file: KeyFile = None) -> None:
    """Let the running broker seal all stored data with the first key, so that you can remove the others.

    You can interrupt it and run it again at any time.
    """

    async def work() -> dict[str, Any]:
        columns = (SpinnerColumn(), TextColumn("{task.description}"))
        told: dict[str, Any] = {"next": None}
        grants = logins = seen = 0
        quiet = as_json or not err.is_terminal
        async with broker_at(config, url, key_file) as broker:
            with Progress(*columns, console=err, disable=quiet, transient=True) as progress:
                bar = progress.add_task("resealing", total=None)
                while True:
                    body = {"cursor": told["next"]} if told["next"] else {}
                    told = await broker.get("POST", "/v1/sealing/reseal", json=body)
                    grants, logins = grants + told["grants_resealed"], logins + told["logins_resealed"]
                    seen += told["grants"]
                    progress.update(bar, description=f"pass {told['pass']}: {seen} grants seen, {grants} resealed")
                    if told["next"] is None:
                        return {**told, "grants_resealed": grants, "logins_resealed": logins}

    told = run(work())
    if as_json:
        typer.echo(json.dumps(told))
    else:
        out.print(f"{told['grants_resealed']} grants and {told['logins_resealed']} pending logins resealed.")
        out.print(f"{told['detail'][:1].upper()}{told['detail'][1:]}.", markup=False)
    if not told["old_keys_may_go"]:
        raise typer.Exit(EXIT_FAILURE)


@callers.command("new", epilog=exits())
def new_caller(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the caller, such as video-wall.")],
    read: Annotated[list[str] | None, _patterns("read")] = None,
    refresh: Annotated[list[str] | None, _patterns("refresh")] = None,
    admin: Annotated[list[str] | None, _patterns("admin")] = None,
) -> None:
    """Make the key of a caller, and print it once, with the lines for the settings."""
    key = new_caller_key()
    rights = {"read": read or [], "refresh": refresh or [], "admin": admin or []}
    try:
        TypeAdapter(dict[Name, Caller]).validate_python({name: {"key_sha256": key_digest(key)} | rights})
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        where = "NAME" if found["loc"][-1] == "[key]" else f"--{found['loc'][1]}"
        raise typer.BadParameter(f"{where} {found.get('ctx', {}).get('error', 'is wrong')}") from None
    out.print("# for the settings:", markup=False)
    out.print(f"[callers.{name if '.' not in name else json.dumps(name)}]", markup=False)
    out.print(f'key_sha256 = "{key_digest(key)}"', markup=False)
    for right, patterns in rights.items():
        hint = "" if any(rights.values()) else f"  # {Caller.model_fields[right].description}"
        out.print(f"{right} = {json.dumps(patterns)}{hint}", markup=False)
    err.print("# for the caller, shown only now:")
    typer.echo(key)
