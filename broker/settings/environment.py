"""The environment as a source of settings: which variable means which key, and how its text is read.

Every variable is a source of its own, so that pydantic-settings merges them with each other and with the file.
Knows no setting: callers pass the class that holds the schema.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_settings import InitSettingsSource

from broker.errors import InvalidSettings
from broker.settings.findings import HOLDS_NUL, keys_with_nul

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

ENV_PREFIX = "TOKEN_BROKER_"
NOT_SETTINGS = frozenset({"URL", "KEY", "KEY_FILE", "CONFIG"})
"""Variables of the client and the commands, without the prefix."""
_KUBERNETES = re.compile(r"SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")
"""Variables that Kubernetes sets in every pod beside a Service named token-broker, without the prefix."""

Keys = tuple[str, ...]


class Variable(InitSettingsSource):
    """One variable as a source: its value at the path that its name means."""

    def __init__(self, settings_cls: type[BaseSettings], name: str, text: str, tables: Sequence[Any]) -> None:
        """Read the variable.

        Args:
            settings_cls: The schema.
            name: Its name without the prefix.
            text: Its value.
            tables: The file and the variables read before: they show how names of providers and callers are spelled.

        Raises:
            InvalidSettings: it is no setting, or its text is no value of that setting.
        """
        self.path, kind, fits = _placed(settings_cls, name.split("__"), tables)
        value = parse(text, kind)
        for key in reversed(self.path):
            value = {key: value}
        super().__init__(settings_cls, value if fits else {})


class Environment:
    """The environment over *table*, which the file holds: the sources of settings, and findings about the rest."""

    def __init__(self, settings_cls: type[BaseSettings], table: dict[str, Any]) -> None:
        self.sources: list[PydanticBaseSettingsSource] = [InitSettingsSource(settings_cls, table)]
        """The highest first."""
        self.variables: dict[Keys, str] = {}
        """The variable that each key came from."""
        self.findings: list[str] = []
        tables = [table]
        for variable, raw in sorted(os.environ.items()):
            name, text = variable.removeprefix(ENV_PREFIX), raw.strip()
            if name == variable or not text or name in NOT_SETTINGS or _KUBERNETES.fullmatch(name):
                continue
            try:
                source = Variable(settings_cls, name, text, tables)
            except InvalidSettings as error:
                self.findings.append(f"environment: {variable}: {error}")
            else:
                self.sources.insert(0, source)
                self.variables[source.path] = variable
                tables.append(source())


def _placed(settings_cls: type[BaseSettings], parts: Sequence[str], tables: Sequence[Any]) -> tuple[Keys, Any, bool]:
    """Return the path that a variable's name means, the annotation there, and whether *tables* has room for it.

    A value of the file that should be a table and is none stays as it is: the schema reports it.

    Args:
        settings_cls: The schema.
        parts: The variable's name without the prefix, split at "__".
        tables: The file and the variables read before, the highest last.

    Raises:
        InvalidSettings: the name means no setting.
    """
    path: list[str] = []
    kind: Any = settings_cls
    here, fits = tables, True
    for part in parts:
        if model := model_of(kind):
            key = part.lower()
            if key not in model.model_fields:
                known = ["__".join(known) for known in _known(settings_cls, tables)]
                near = difflib.get_close_matches("__".join(parts), known, n=1, cutoff=0.7)
                raise InvalidSettings(
                    f"no such setting: did you mean {ENV_PREFIX}{near[0]}?"
                    if near
                    else f"no such setting: names are as in {ENV_PREFIX}HTTP__LISTEN, which is listen below [http]"
                )
            kind = model.model_fields[key].annotation
        elif (value_kind := table_of(kind)) is not None:
            # A variable's name has neither '-' nor '.', and is mostly written in capitals.
            spelled = [name for name in _names(here) if _as_variable(name) == _as_variable(part)]
            key, kind = spelled[0] if spelled else part.lower(), value_kind
        else:
            raise InvalidSettings(f"{'.'.join(path)} is not a table: remove __{part} from the variable's name")
        path.append(key)
        fits = fits and isinstance(here[-1] if here else {}, dict)
        here = _below(here, key)
    return tuple(path), kind, fits


def _as_variable(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def _names(tables: Sequence[Any]) -> list[str]:
    """Return the keys of those *tables* that are tables, each once."""
    return list(dict.fromkeys(name for table in tables if isinstance(table, dict) for name in table))


def _below(tables: Sequence[Any], key: str) -> list[Any]:
    return [table[key] for table in tables if isinstance(table, dict) and key in table]


def _known(kind: Any, tables: Sequence[Any]) -> Iterator[Keys]:
    """Yield the name of every variable below *kind*, for the providers and callers in *tables* too."""
    inner: dict[str, Any] = {}
    if model := model_of(kind):
        inner = {name: field.annotation for name, field in model.model_fields.items()}
    elif (value_kind := table_of(kind)) is not None and model_of(value_kind):
        inner = dict.fromkeys(_names(tables), value_kind)
    for name, below in inner.items():
        yield (_as_variable(name),)
        for rest in _known(below, _below(tables, name)):
            yield _as_variable(name), *rest


def model_of(kind: Any) -> type[BaseModel] | None:
    """Return *kind* where it is a table with known keys, else None."""
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def table_of(kind: Any) -> Any:
    """Return the annotation of the values of a table with free keys; None where *kind* is no such table.

    Of alternatives, the one that is a table counts.
    """
    if _is_union(kind):
        return next((inner for part in get_args(kind) if (inner := table_of(part)) is not None), None)
    return get_args(kind)[1] if get_origin(kind) is dict else None


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in {Union, UnionType}


def _is_list(kind: Any) -> bool:
    origin = get_origin(kind)
    return origin in {list, tuple} or (origin in {Annotated, Union, UnionType} and any(map(_is_list, get_args(kind))))


def parse(value: str, kind: Any) -> Any:
    """Return a variable's text as the file would hold it: tables and lists from JSON, a list also from `a,b`."""
    is_list = _is_list(kind)
    if model_of(kind) is None and table_of(kind) is None and not is_list:
        return value
    if _is_union(kind) and not is_list and not value.startswith("{"):
        return value  # a setting that is a word or a table
    if is_list and not value.startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, list if is_list else dict):
        raise InvalidSettings('must be a list: a,b or ["a", "b"]' if is_list else 'must be a table as JSON: {"…": …}')
    if keys_with_nul({"": parsed}):
        raise InvalidSettings(HOLDS_NUL)
    return parsed
