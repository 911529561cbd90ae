"""The tables of the settings: every key, and what each kind of provider fills in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from broker.cli.toml import toml
from broker.providers.dialects import Dialect
from broker.settings import Provider, Settings
from broker.settings.environment import ENV_PREFIX, model_of, table_of
from broker.settings.values import spelled
from tests.reference.pages import code, table

KINDS = ("cameramanager", "een-v3", "oauth2", "oidc")
NOTHING = "–"
_TYPES = {"boolean": "true or false", "integer": "integer", "number": "number", "string": "text"}


def settings() -> str:
    """Return the table of all settings."""
    schema = Settings.model_json_schema()
    rows = _rows(Settings, (), schema, schema["$defs"])
    return table(("setting", "type", "default", "meaning", "environment variable"), rows)


def _rows(
    model: type[BaseModel], above: tuple[str, ...], schema: Mapping[str, Any], models: Mapping[str, Any]
) -> Iterator[tuple[str, ...]]:
    for key, field in model.model_fields.items():
        of = model_of(table_of(field.annotation))
        path = (*above, key, "NAME") if of else (*above, key)
        if inner := of or model_of(field.annotation):
            yield from _rows(inner, path, models[inner.__name__], models)
            continue
        kind = schema["properties"][key]
        variable = "__".join(part if part == "NAME" else part.upper() for part in path)
        default = _default(model, key, field, kind)
        yield code(".".join(path)), _type(kind), default, field.description or "", code(ENV_PREFIX + variable)


def _default(model: type[BaseModel], key: str, field: FieldInfo, kind: Mapping[str, Any]) -> str:
    if field.is_required():
        return "required"
    if model is Provider and key in FILLED_IN:
        filled = {_value(FILLED_IN[key](dialect)) for dialect in _dialects().values()}
        return filled.pop() if len(filled) == 1 else "by kind"
    if field.default and field.default == kind.get("items", {}).get("enum"):
        return "all"
    return _value(field.default)


def _value(value: Any) -> str:
    return NOTHING if value is None else code(toml(value))


def _type(schema: Mapping[str, Any]) -> str:
    """Return a JSON Schema in words."""
    match schema:
        case {"anyOf": options}:
            return " or ".join(_type(option) for option in options if option != {"type": "null"})
        case {"enum": words}:
            return ", ".join(code(toml(word)) for word in words)
        case {"const": word}:
            return code(toml(word))
        case {"type": "array", "prefixItems": items}:
            return f"list of {len(items)} numbers"
        case {"type": "array", "items": {"enum": words}}:
            return f"list of {', '.join(code(toml(word)) for word in words)}"
        case {"type": "array", "items": item}:
            return f"list: {_type(item)}"
        case {"type": "object"}:
            return "table of text"
        case {"format": "password"}:
            return "text"
        case _:
            return str(schema.get("format", _TYPES[schema["type"]])) + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    match schema:
        case {"minimum": least, "maximum": most}:
            return f", {least} to {most}"
        case {"minimum": least}:
            return f", at least {least}"
        case {"le": longest}:
            return f", at most {spelled(TypeAdapter(timedelta).validate_python(longest))}"
        case _:
            return ""


FILLED_IN: Mapping[str, Callable[[Dialect], Any]] = {
    "scope": lambda dialect: dialect.scope,
    "authorization_endpoint": lambda dialect: dialect.authorization_endpoint,
    "token_endpoint": lambda dialect: dialect.token_endpoint,
    "refresh_endpoint": lambda dialect: dialect.refresh_endpoint,
    "revocation_endpoint": lambda dialect: dialect.revocation_endpoint,
    "logout_endpoint": lambda dialect: dialect.logout_endpoint,
    "account_endpoint": lambda dialect: dialect.account_endpoint,
    "account_member": lambda dialect: dialect.account_member,
    "account_hosts": lambda dialect: list(dialect.account_hosts),
    "token_endpoint_auth_method": lambda dialect: dialect.token_endpoint_auth_method,
    "basic_encoding": lambda dialect: dialect.basic_encoding,
    "parameters": lambda dialect: dialect.parameters,
    "pkce": lambda dialect: dialect.pkce,
    "state": lambda dialect: "optional" if dialect.state_may_be_missing else "required",
    "confirm_login": lambda dialect: dialect.confirm_login,
    "redirect_uri_encoding": lambda dialect: "percent" if dialect.encode_redirect_uri else "plain",
    "scope_on_refresh": lambda dialect: dialect.scope_on_refresh,
    "scope_on_exchange": lambda dialect: dialect.scope_on_exchange,
    "scope_separator": lambda dialect: dialect.scope_separator,
    "body": lambda dialect: dialect.body,
    "code_parameter": lambda dialect: dialect.code_parameter,
    "redirect_uri": lambda dialect: dialect.redirect_uri,
    "redirect_path": lambda dialect: "provider" if dialect.own_redirect_path else "shared",
    "window": lambda dialect: dialect.window,
    "reuse_grace": lambda dialect: "forever" if dialect.reuse_grace_ms is None else _ms(dialect.reuse_grace_ms),
    "old_token": lambda dialect: dialect.old_token,
    "default_lifetime": lambda dialect: _ms(dialect.default_lifetime_ms),
    "lifetime": lambda dialect: _ms(dialect.lifetime_ms),
    "response_path": lambda dialect: dialect.response_path,
    "keep_from_callback": lambda dialect: list(dialect.keep_from_callback),
    "idle_limit": lambda dialect: _ms(dialect.idle_limit_ms),
    "absolute_limit": lambda dialect: _ms(dialect.absolute_limit_ms),
    "dead_statuses": lambda dialect: sorted(dialect.dead_statuses),
    "dead_errors": lambda dialect: list(dialect.dead_errors),
    "busy_errors": lambda dialect: list(dialect.busy_errors),
    "registration_errors": lambda dialect: list(dialect.registration_errors),
}
"""What a dialect holds where the settings do not say, as the settings spell it."""


def kinds() -> str:
    """Return the table of what each kind of provider fills in; what is the same for all stands with the settings."""
    dialects = _dialects()
    rows = []
    for key, filled in FILLED_IN.items():
        cells = [_value(filled(dialect)) for dialect in dialects.values()]
        if len(set(cells)) > 1 or key.endswith("_endpoint"):
            rows.append((code(key), *map(_found, [key] * len(cells), cells, dialects.values())))
    issuer = ["required" if "issuer" in _required(kind) else NOTHING for kind in KINDS]
    return table(("", *map(code, KINDS)), [(code("issuer"), *issuer), *rows])


def _found(key: str, cell: str, dialect: Dialect) -> str:
    """Return a cell, or where the value is from that the kind does not know."""
    known = {"logout_endpoint", "refresh_endpoint", "account_endpoint"}
    if cell != NOTHING or not key.endswith("_endpoint") or key in known:
        return cell
    return "discovered" if dialect.discovery else "required" if key in _required(dialect.kind) else NOTHING


def _dialects() -> dict[str, Dialect]:
    """Return each kind's dialect where the settings hold no more than they must."""
    must = {"issuer": "https://issuer", "token_endpoint": "https://endpoint"}
    dialects = {}
    for kind in KINDS:
        given = {key: must[key] for key in _required(kind)}
        provider = Provider.model_validate({"kind": kind, "client_id": "x", "client_secret": "x"} | given)
        dialects[kind] = Dialect.from_settings(kind, provider.model_copy(update=dict.fromkeys(given)))
    return dialects


def _required(kind: str) -> set[str]:
    """Return the keys that a provider of *kind* needs beside its registration."""
    try:
        Provider.model_validate({"kind": kind, "client_id": "x"})
    except ValidationError as error:
        return {str(found["loc"][0]) for found in error.errors()}
    return set()


def _ms(milliseconds: int | None) -> timedelta | None:
    return None if milliseconds is None else timedelta(milliseconds=milliseconds)
