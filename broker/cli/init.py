"""`token-broker init`: print a commented settings file, made from the schema of the settings.

Above each key stands the description of the setting. A key behind `#` shows its default, or an example where it has
no default.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

from broker.cli.console import app, exits
from broker.cli.providers import described, require_kind
from broker.cli.toml import toml
from broker.settings import Caller, Provider, Settings, catalogue
from broker.settings.values import choices

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo

    from broker.settings.catalogue import Kind

_HEAD = """\
# Settings of token-broker. A key behind # shows its default or an example; durations carry their unit.
# The environment wins: TOKEN_BROKER_REDIS__URL is redis.url. Relative paths begin where token-broker is started.
"""
_COLUMNS = 100
_GIVEN: dict[str, dict[str, Any]] = {
    "": {"data_dir": "./data"},
    "http": {"listen": ["127.0.0.1:8080"], "public_url": "http://127.0.0.1:8080"},
    "redis": {"url": "embedded:"},
}
"""The settings of a first file; all others are behind `#`."""


_NAMES = {"een-v3": "een", "oauth2": "acme", "oidc": "acme"}
"""What the provider is called, where not by its kind."""
_SHOWN = {"cameramanager": ["scope"], "oauth2": ["revocation_endpoint", "scope"], "oidc": ["scope"]}
"""Keys to show behind `#`."""
_URL, _TEXT = "https://…", "…"
"""Placeholders, which `run` refuses."""
_CALLER = {
    "key_sha256": "…",
    "read": ["acme-*"],
    "refresh": ["acme-*"],
    "view": [],
    "login": [],
    "admin": [],
    "providers": ["*"],
}


@app.command(epilog=exits())
def init(
    provider: Annotated[
        str,
        typer.Option(metavar="KIND", help="Kind of provider to begin with; `token-broker providers` lists them."),
    ] = "cameramanager",
) -> None:
    """Print a commented settings file: token-broker init > broker.toml."""
    typer.echo("\n".join(_file(catalogue.load(require_kind(provider)))))


def _file(kind: Kind) -> Iterator[str]:
    yield _HEAD
    yield from _keys(Settings.model_fields, _GIVEN[""])
    for name, field in Settings.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            given = _GIVEN.get(name, {})
            yield from _table(name, field.description or "", commented=not given)
            yield from _keys(inner.model_fields, given)
    yield from _table(f"providers.{_NAMES.get(kind.name, kind.name)}", kind.title)
    asked = (f"parameters.{name} is {described(template)}" for name, template in kind.templates.items())
    uri, name = f"{_GIVEN['http']['public_url']}/callback", _NAMES.get(kind.name, kind.name)
    for words in (*kind.notes, *asked, f"Register this redirect URI there: {uri}"):
        yield from _comment(words)
    if "issuer" not in kind.needs and "issuer" not in kind.settings:  # nothing else tells its redirects apart
        yield from _comment(f'Beside other providers set redirect_path = "provider", and register {uri}/{name}.')
    yield from _keys(Provider.model_fields, _given(kind), _shown(kind))
    yield from _table("callers.video-wall", Settings.model_fields["callers"].description or "", commented=True)
    yield from _keys(Caller.model_fields, {}, _CALLER)


def _given(kind: Kind) -> dict[str, Any]:
    """Return the keys that a provider of this kind must have, with placeholders."""
    given: dict[str, Any] = {"kind": kind.name}
    for key in kind.needs:
        table, _, name = key.partition(".")
        if name:
            given.setdefault(table, {})[name] = _TEXT
        else:
            given[key] = _URL if key == "issuer" or key.endswith("_endpoint") else _TEXT
    return given | ({"client_secret_file": "client_secret"} if "client_secret_file" in given else {})


def _shown(kind: Kind) -> dict[str, Any]:
    """Return the keys to show behind `#`: what a person may want to set, with the values of the kind."""
    defaults = {name: template.default for name, template in kind.templates.items() if template.default is not None}
    shown: dict[str, Any] = {"parameters": defaults} if defaults and not kind.required() else {}
    for key in _SHOWN.get(kind.name, ["scope"]):
        shown[key] = kind.settings.get(key, _URL if key.endswith("_endpoint") else _TEXT)
    return shown


def _table(name: str, description: str, *, commented: bool = False) -> Iterator[str]:
    yield ""
    yield from _comment(description)
    yield f"{'#' if commented else ''}[{name}]"


def _keys(
    fields: Mapping[str, FieldInfo], given: Mapping[str, Any], shown: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """Yield the lines of a table, each key below its description.

    Args:
        fields: The fields of the table.
        given: The keys to set, with their values.
        shown: The keys to show behind `#`, with their values; None: all that have a default or an example.
    """
    for key, field in fields.items():
        value = given.get(key, _example(field) if shown is None else shown.get(key))
        if value is None or isinstance(value, BaseModel) or value == {}:
            continue
        allowed = () if key in given else choices(field.annotation)
        yield from _comment(f"{field.description} ({', '.join(allowed)})" if allowed else field.description or "")
        yield f"{'' if key in given else '#'}{key} = {toml(value)}"


def _comment(words: str) -> list[str]:
    return textwrap.wrap(words, _COLUMNS, initial_indent="# ", subsequent_indent="# ")


def _example(field: FieldInfo) -> Any:
    return next(iter(field.examples or ()), None if field.is_required() else field.default)
