"""The settings of `sink`: options describe one file, a TOML file describes many."""

from __future__ import annotations

import os
import signal as signals
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from broker.cli.formats import FileFormat
from broker.errors import InvalidSettings
from broker.settings.findings import WORDS
from broker.settings.values import Name, Section, matching


def _signal(value: str) -> str:
    name = value.upper().removeprefix("SIG")
    if f"SIG{name}" not in signals.Signals.__members__:
        raise ValueError("must be the name of a signal, such as HUP or USR1")
    return f"SIG{name}"


class Sink(Section):
    """One file, and the grant whose token it holds."""

    grant: Name = Field(description="id of the grant whose token to write")
    file: Annotated[Path, AfterValidator(Path.absolute)] = Field(description="file to write")
    format: FileFormat = Field(
        default="text",
        description="content of the file; text (default): the token only; header: for curl -H @FILE; "
        "env: for EnvironmentFile=; json: the response without expires_in; k8s; netrc",
    )
    owner: str | None = Field(default=None, description="user that owns the file")
    group: str | None = Field(default=None, description="group of the file")
    mode: Annotated[str, matching("0?[0-7]{3}", 'must be three octal digits in quotes, such as "0640"')] = Field(
        default="0600", description="mode of the file, whatever the umask; 0600 by default"
    )
    in_place: bool = Field(
        default=False, description="write into the existing file; by default a rename replaces it where possible"
    )
    exec: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[], description="command to run after a change, without a shell; it may take 60 s"
    )
    signal: Annotated[str, AfterValidator(_signal)] | None = Field(
        default=None, description="signal to send after a change, such as HUP"
    )
    pid_file: Path | None = Field(default=None, description="file with the id of the process that gets the signal")
    on_expiry: Literal["keep", "remove"] = Field(
        default="keep", description="what to do with a file whose token has expired: keep (default) or remove it"
    )
    machine: Annotated[str, matching(r"\S+", "must be a host's name")] | None = Field(
        default=None, description="host that the token is for; netrc needs it"
    )
    login: Annotated[str, matching(r"\S+", "must be one word")] = Field(
        default="oauth2", description="user name in netrc; oauth2 by default"
    )

    @field_validator("pid_file")
    @classmethod
    def _goes_with_signal(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        signal = info.data.get("signal", "")
        if path is None and signal:
            raise ValueError(f"is missing: name the file with the id of the process that {signal} goes to")
        if path is not None and signal is None:
            raise ValueError("needs a signal to send: set signal too")
        return path

    @field_validator("machine")
    @classmethod
    def _needed_by_netrc(cls, machine: str | None, info: ValidationInfo) -> str | None:
        if machine is None and info.data.get("format") == "netrc":
            raise ValueError("is missing: netrc needs the host that the token is for")
        return machine


def from_file(path: Path) -> list[Sink]:
    """Return the sinks of a TOML file, which has a `[[sink]]` table for each.

    Raises:
        InvalidSettings: everything that is wrong.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise InvalidSettings(f"{path}: cannot be read by uid {os.getuid()} ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        what = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "not UTF-8 text, or beyond the parser"
        raise InvalidSettings(f"{path}: is not TOML: {what}") from None
    rows = table.get("sink")
    if not isinstance(rows, list) or not rows or set(table) != {"sink"}:
        raise InvalidSettings(f'{path}: write a [[sink]] table for each file, with grant = "…" and file = "…" in it')
    sinks, wrong = list[Sink](), list[str]()
    for number, row in enumerate(rows, 1):
        try:
            sinks.append(_KIND.validate_python(row))
        except ValidationError as error:
            wrong += [f"{path}: sink {number}: {words}" for words in findings(error)]
    for file in {sink.file for sink in sinks}:
        if sum(sink.file == file for sink in sinks) > 1:
            wrong.append(f"{path}: {file} is the file of two sinks: give each its own")
    if wrong:
        raise InvalidSettings(*wrong)
    return sinks


def from_options(options: dict[str, Any]) -> Sink:
    """Return the sink that the options describe, each passed by its key.

    Raises:
        InvalidSettings: everything that is wrong.
    """
    try:
        return _KIND.validate_python({name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        raise InvalidSettings(*(f"--{words.replace('_', '-', 1)}" for words in findings(error))) from None


def option(key: str, *names: str, **more: Any) -> Any:
    """Return the option of the command for a key of a sink, with the key's description as its help."""
    words = Sink.model_fields[key].description or ""
    return typer.Option(f"--{key.replace('_', '-')}", *names, help=f"{words[:1].upper()}{words[1:]}.", **more)


_KIND = TypeAdapter(Sink)


def findings(error: ValidationError) -> list[str]:
    """Return what is wrong, one line each: `KEY: what is allowed`."""
    lines = []
    for each in error.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in each["loc"] if isinstance(part, str)) or "sink"
        if each["type"] == "extra_forbidden":
            words = f"no such key; allowed: {', '.join(Sink.model_fields)}"
        else:
            words = WORDS.get(each["type"], "is not allowed here").format_map(each.get("ctx", {}))
        lines.append(f"{key}: {words}")
    return lines
