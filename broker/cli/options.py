"""The options that several commands share, and the settings that --config names."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from broker.errors import InvalidSettings
from broker.settings import Settings
from broker.settings import file as settings_file


def _check_url(url: str | None) -> str | None:
    if url is not None and not url.startswith(("http://", "https://", "unix:/")):
        raise typer.BadParameter("must begin with http://, https:// or unix:/")
    return url


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="TOKEN_BROKER_CONFIG",
        metavar="FILE",
        help="Settings file.",
        show_default="./broker.toml, else /etc/token-broker/broker.toml",
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="TOKEN_BROKER_URL",
        metavar="URL",
        help="Address of the running broker: http://, https:// or unix:/PATH.",
        show_default="from the settings",
        callback=_check_url,
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        envvar="TOKEN_BROKER_KEY_FILE",
        metavar="FILE",
        help="File with the caller's key.",
        show_default="the admin key in data_dir",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
GrantId = Annotated[str, typer.Argument(metavar="GRANT", help="Id of the grant, chosen by you.")]

_PLACE = {"config": "--config", "url": "--url", "key_file": "--key-file"}


def given_again(ctx: typer.Context) -> str:
    """Return the options of a command line that say which broker and which key, as another command needs them too."""
    given = [name for name in _PLACE if (source := ctx.get_parameter_source(name)) and source.name == "COMMANDLINE"]
    return "".join(f" {_PLACE[name]} {shlex.quote(str(ctx.params[name]))}" for name in given)


_DEFAULT_PATHS = (Path("broker.toml"), Path("/etc/token-broker/broker.toml"))


def config_path(config: Path | None) -> Path | None:
    """Return the settings file to read: *config*, else the first that exists, else None (environment only)."""
    return config or next((path for path in _DEFAULT_PATHS if os.path.lexists(path)), None)


def load(config: Path | None) -> Settings:
    """Return the settings that --config names, or else those of the first default file.

    Raises:
        InvalidSettings: there are none, or they are wrong.
    """
    path = config_path(config)
    if path is None and not any(name.startswith("TOKEN_BROKER_REDIS__") for name in os.environ):
        raise InvalidSettings(
            "there are no settings, neither in ./broker.toml nor in /etc/token-broker/broker.toml: make a file with "
            "`token-broker init > broker.toml`, name one with --config, or try `token-broker demo`"
        )
    return settings_file.load(path)
