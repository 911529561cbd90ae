"""`token-broker caller new`: make the key of a caller, and the settings that let it in."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from broker.cli.console import app, err, exits, out
from broker.secret import key_digest, new_caller_key
from broker.settings import Caller
from broker.settings.values import Name

callers = typer.Typer(help="Make keys for callers: services and persons that ask the broker.", no_args_is_help=True)
app.add_typer(callers, name="caller")


def _patterns(right: str) -> Any:
    """Return the option for a right of a caller, described as in the settings."""
    words = Caller.model_fields[right].description or ""
    return typer.Option(metavar="PATTERN", help=f"{words[:1].upper()}{words[1:]}; may be repeated.")


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
        problem = error.errors(include_url=False, include_input=False)[0]
        where = "NAME" if problem["loc"][-1] == "[key]" else f"--{problem['loc'][1]}"
        raise typer.BadParameter(f"{where} {problem.get('ctx', {}).get('error', 'is not allowed')}") from None
    out.print("# for the settings:", markup=False)
    out.print(f"[callers.{name if '.' not in name else json.dumps(name)}]", markup=False)
    out.print(f'key_sha256 = "{key_digest(key)}"', markup=False)
    for right, patterns in rights.items():
        hint = "" if any(rights.values()) else f"  # {Caller.model_fields[right].description}"
        out.print(f"{right} = {json.dumps(patterns)}{hint}", markup=False)
    err.print("# the caller's key, which is shown only now:")
    typer.echo(key)
