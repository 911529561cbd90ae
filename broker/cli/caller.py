"""`token-broker caller new`: make the key of a caller, and the settings that let it in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from broker.cli.console import EXIT_FAILURE, app, err, exits
from broker.cli.new_file import create_private
from broker.secret import key_digest, new_caller_key
from broker.settings import Caller
from broker.settings.values import Name

if TYPE_CHECKING:
    from collections.abc import Iterator

callers = typer.Typer(help="Make keys for callers: services and persons that ask the broker.", no_args_is_help=True)
app.add_typer(callers, name="caller")


def _patterns(right: str, option: str | None = None) -> Any:
    """Return the option for a right of a caller, described as in the settings; *option*: its name, where it differs."""
    words = Caller.model_fields[right].description or ""
    names = [f"--{option}"] if option else []
    return typer.Option(*names, metavar="PATTERN", help=f"{words[:1].upper()}{words[1:]}; may be repeated.")


@callers.command("new", epilog=exits(own={EXIT_FAILURE: "the key file exists, or cannot be written"}))
def new_caller(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the caller, such as video-wall.")],
    read: Annotated[list[str] | None, _patterns("read")] = None,
    refresh: Annotated[list[str] | None, _patterns("refresh")] = None,
    view: Annotated[list[str] | None, _patterns("view")] = None,
    login: Annotated[list[str] | None, _patterns("login")] = None,
    admin: Annotated[list[str] | None, _patterns("admin")] = None,
    providers: Annotated[list[str] | None, _patterns("providers", "provider")] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", metavar="FILE", help="New file (0600) to write the key to, instead of printing it."),
    ] = None,
) -> None:
    """Make the key of a caller. Standard output has the key, and standard error the lines for the settings."""
    key = new_caller_key()
    rights = {"read": read or [], "refresh": refresh or [], "admin": admin or []}
    further = {"view": view, "login": login, "providers": providers}
    rights |= {name: patterns for name, patterns in further.items() if patterns}
    try:
        TypeAdapter(dict[Name, Caller]).validate_python({name: {"key_sha256": key_digest(key)} | rights})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = "NAME" if problem["loc"][-1] == "[key]" else f"--{problem['loc'][1]}"
        raise typer.BadParameter(f"{where} {problem.get('ctx', {}).get('error', 'is not allowed')}") from None
    if key_file is not None:
        create_private(key_file, key)
    if err.is_terminal:
        err.print("# Append these lines to the settings, and then run `token-broker reload`:")
    for line in _table(name, key, rights):
        err.print(line, markup=False)
    if err.is_terminal:
        where = ", which is shown only now:" if key_file is None else f" is in {key_file}."
        err.print(f"# The caller's key{where}", markup=False)
    if key_file is None:
        typer.echo(key)


def _table(name: str, key: str, rights: dict[str, list[str]]) -> Iterator[str]:
    """Yield the lines for the settings, as `2>> broker.toml` appends them, whether or not its last line has an end."""
    yield ""
    yield f"[callers.{name if '.' not in name else json.dumps(name)}]"
    yield f'key_sha256 = "{key_digest(key)}"'
    for right, patterns in rights.items():
        hint = "" if any(rights.values()) else f"  # {Caller.model_fields[right].description}"
        yield f"{right} = {json.dumps(patterns)}{hint}"
