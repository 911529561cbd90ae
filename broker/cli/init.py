"""`token-broker init`: print a commented settings file, made from the schema of the settings.

Above each key stands the description of the setting. A key behind `#` shows its default, or an example where it has
no default.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import BaseModel

from broker.cli.console import app, exits
from broker.settings import Caller, Provider, Settings
from broker.settings.values import choices, spelled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo

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


@dataclass(frozen=True, slots=True)
class _Start:
    """A provider to begin with: its name, a title, and the keys that are set or shown behind `#`."""

    name: str
    title: str
    given: dict[str, Any]
    shown: dict[str, Any]


_REGISTRATION = {"client_id": "…", "client_secret_file": "client_secret"}
_PROVIDERS = {
    "cameramanager": _Start(
        "cameramanager",
        'Eagle Eye Networks CameraManager; client id and secret are those of your API key, scope is "write" or "read"',
        _REGISTRATION,
        {"scope": "write"},
    ),
    "een-v3": _Start("een", "Eagle Eye Networks API V3", _REGISTRATION, {}),
    "oidc": _Start(
        "acme",
        "any OpenID Connect issuer",
        {"issuer": "https://…"} | _REGISTRATION,
        {"scope": "openid offline_access"},
    ),
    "oauth2": _Start(
        "acme",
        "any RFC 6749 server",
        {"authorization_endpoint": "https://…", "token_endpoint": "https://…"} | _REGISTRATION,
        {"revocation_endpoint": "https://…", "scope": "…"},
    ),
}
_CALLER = {"key_sha256": "…", "read": ["acme-*"], "refresh": ["acme-*"], "admin": []}


@app.command(epilog=exits())
def init(
    provider: Annotated[
        Literal["cameramanager", "een-v3", "oidc", "oauth2"],
        typer.Option(help="Kind of provider to begin with."),
    ] = "cameramanager",
) -> None:
    """Print a commented settings file: token-broker init > broker.toml."""
    typer.echo("\n".join(_file(provider)))


def _file(kind: str) -> Iterator[str]:
    yield _HEAD
    yield from _keys(Settings.model_fields, _GIVEN[""])
    for name, field in Settings.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            given = _GIVEN.get(name, {})
            yield from _table(name, field.description or "", commented=not given)
            yield from _keys(inner.model_fields, given)
    start = _PROVIDERS[kind]
    yield from _table(f"providers.{start.name}", start.title)
    yield from _keys(Provider.model_fields, {"kind": kind} | start.given, start.shown)
    yield from _table("callers.video-wall", Settings.model_fields["callers"].description or "", commented=True)
    yield from _keys(Caller.model_fields, {}, _CALLER)


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
        if value is None or isinstance(value, dict | BaseModel):
            continue
        allowed = () if key in given else choices(field.annotation)
        yield from _comment(f"{field.description} ({', '.join(allowed)})" if allowed else field.description or "")
        yield f"{'' if key in given else '#'}{key} = {toml(value)}"


def _comment(words: str) -> list[str]:
    return textwrap.wrap(words, _COLUMNS, initial_indent="# ", subsequent_indent="# ")


def _example(field: FieldInfo) -> Any:
    return next(iter(field.examples or ()), None if field.is_required() else field.default)


def toml(value: Any) -> str:
    """Return a setting's value as the settings file spells it."""
    match value:
        case timedelta():
            return f'"{spelled(value)}"'
        case Path():
            return json.dumps(str(value))
        case list() | tuple():
            return f"[{', '.join(map(toml, value))}]"
        case _:
            return json.dumps(value, ensure_ascii=False)
