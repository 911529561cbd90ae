"""Reading the settings: the TOML file, the environment over it, and errors that say where and what to do."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsError

from broker.errors import CorrectSettings
from broker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ENV_PREFIX = "TOKEN_BROKER_"
NOT_SETTINGS = frozenset({"URL", "KEY", "KEY_FILE", "CONFIG"})
"""Variables of the client and the commands."""


def load(path: Path | None) -> Settings:
    """The settings of *path* (None: environment alone) with the environment over them.

    Raises `CorrectSettings`, one finding a line: `FILE:LINE: key: what is wrong and what is allowed`.
    """
    text, table = _read(path)
    unknown = _unknown_variables()
    if unknown:
        raise CorrectSettings(*unknown)

    class Sourced(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return env_settings, InitSettingsSource(settings_cls, init_kwargs=table)

    try:
        return Sourced()
    except ValidationError as error:
        raise CorrectSettings(*(_finding(path, text, e) for e in error.errors())) from None
    except SettingsError as error:  # pydantic-settings raises its own for an unparsable variable
        raise CorrectSettings(f"environment: {str(error)[:200]}") from None


def _read(path: Path | None) -> tuple[str, dict[str, Any]]:
    if path is None:
        return "", {}
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CorrectSettings(
            f"{path}: cannot be read ({error.strerror}): name another with --config, or make one with "
            "`token-broker init`"
        ) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = raw[: error.start].count(b"\n") + 1
        raise CorrectSettings(f"{path}:{number}: is not UTF-8: save the file as UTF-8") from None
    try:
        return text, tomllib.loads(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        line = match[1] if (match := re.search(r"line (\d+)", str(error))) else "1"
        raise CorrectSettings(f"{path}:{line}: is not TOML: {error}") from None


def _unknown_variables() -> list[str]:
    findings = []
    for name in sorted(os.environ):
        if not name.startswith(ENV_PREFIX) or name.removeprefix(ENV_PREFIX) in NOT_SETTINGS:
            continue
        path = name.removeprefix(ENV_PREFIX).lower().split("__")
        if wrong := _first_unknown(Settings, path):
            known, at = wrong
            findings.append(f"environment: {name}: no such setting{_nearest(at, known)}")
    return findings


def _first_unknown(model: type[BaseModel], path: Sequence[str]) -> tuple[list[str], str] | None:
    """The keys allowed and the one met, where *path* first leaves the schema."""
    key, *rest = path
    if key not in model.model_fields:
        return list(model.model_fields), key
    inner = _model_of(model.model_fields[key].annotation)
    if inner is None or not rest:
        return None
    if _is_table_of(model.model_fields[key].annotation):
        rest = rest[1:]
    return _first_unknown(inner, rest) if rest else None


def _is_table_of(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is dict


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if model := _model_of(inner):
            return model
    return None


def _nearest(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f": did you mean {near[0]}?" if near else f"; allowed: {', '.join(known)}"


def _finding(path: Path | None, text: str, error: Any) -> str:
    location = [str(part) for part in error["loc"] if not str(part).startswith("function-")]
    key, message, file = ".".join(location), str(error["msg"]).removeprefix("Value error, "), path or "settings"
    variable = ENV_PREFIX + "__".join(location).upper()
    where = (
        f"environment: {variable}" if os.environ.get(variable) else f"{file}{_line(text, location)}: {key}".rstrip(": ")
    )
    match error["type"]:
        case "extra_forbidden":
            owner: type[BaseModel] = Settings
            for part in location[:-1]:
                if part in owner.model_fields:
                    owner = _model_of(owner.model_fields[part].annotation) or owner
            return f"{where}: no such key{_nearest(location[-1], list(owner.model_fields))}"
        case "missing" if key in {"redis", "redis.url"}:
            return (
                f"{file}: redis.url is missing: name your Redis (redis://HOST:6379/0), or say embedded: for one in "
                "data_dir; `token-broker demo` needs no settings at all"
            )
        case "missing":
            return f"{where}: is missing"
        case "literal_error":
            return f"{where}: allowed are {error['ctx']['expected']}"
        case "value_error":
            wanted = message if " " in message and not message.startswith(("a ", "an ")) else f"must be {message}"
            return f"{where}: {wanted if not message.startswith(('a ', 'an ')) else 'must be ' + message}"
        case _:
            return f"{where}: {message[:1].lower()}{message[1:]}"


def _line(text: str, location: Sequence[str]) -> str:
    """`:LINE` of the longest part of *location* that stands in the file, or nothing."""
    best, section = 0, ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line.startswith("["):
            section = re.sub(r"[\[\]\"' ]", "", line.split("#")[0])
            if section == ".".join(location) or (".".join(location).startswith(section + ".") and not best):
                best = number
        elif match := re.match(r"([A-Za-z0-9_.\"'-]+)\s*=", line):
            full = ".".join(filter(None, (section, match[1].strip("\"'"))))
            if full == ".".join(location) or (len(location) > 1 and full == ".".join(location[:-1])):
                return f":{number}"
    return f":{best}" if best else ""
