"""The catalogue: kinds of providers by name, each a file of settings that a provider of that kind begins with.

Owns the form of `broker/providers/catalogue/NAME.toml`, the templates in its values, and how a user's settings lie over
it. A file is read when a provider of its kind is configured, never before. Knows nothing of what a setting means.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from broker.errors import InvalidSettings
from broker.settings.findings import WORDS, lines_of, not_toml
from broker.settings.values import Section

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pydantic import BaseModel

    from broker.settings.environment import Keys

DIRECTORY = Path(__file__).parents[1] / "providers" / "catalogue"
"""Where the files are."""
BASES = ("oauth2", "oidc")
REGISTRATION = frozenset(
    {"kind", "client_id", "client_secret", "client_secret_file", "proxy", "proxy_credentials_file"}
)
"""Settings of one registration or one network, which no kind can know."""
OF_ANSWERS = frozenset({"account_endpoint"})
"""Settings whose braces stand for members of a token response, so that a name that is no template is no mistake."""
OF_REGISTRATION = frozenset({"client_id", "scope"})
"""Names in braces that stand for settings of the provider itself; `providers.dialects` replaces them."""
OF_TOKENS = ("refresh_endpoint", "revocation_endpoint", "logout_endpoint")
"""Settings of a kind that count only while `token_endpoint` is at the kind's host: tokens are sent there."""
_BRACES = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_DEEPEST = 16
"""Levels of tables and lists in a catalogue file."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


class Template(Section):
    """A name in braces within a kind's values, such as `{shop}`, and what may stand for it."""

    description: str = Field(min_length=1)
    pattern: str
    example: str
    default: str | None = None

    def accepts(self, value: object) -> bool:
        """Return whether *value* may stand for the name."""
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None


class _Notes(Section):
    lines: list[str] = Field(default=[])


class _File(Section):
    """The tables and keys of a catalogue file."""

    title: str = Field(min_length=1)
    base: Literal["oauth2", "oidc"] | None = None
    read: date
    settings: dict[str, Any] = Field(default={})
    template: dict[str, Template] = Field(default={})
    sources: dict[str, str] = Field(default={})
    notes: _Notes = _Notes()


@dataclass(frozen=True, slots=True)
class Kind:
    """What the catalogue knows of one kind of provider."""

    name: str
    title: str
    base: Literal["oauth2", "oidc"]
    read: date
    """The day on which its sources were read."""
    settings: Mapping[str, Any]
    """With those of the base."""
    templates: Mapping[str, Template]
    sources: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def needs(self) -> list[str]:
        """Return the settings that a provider of this kind must have, with a client secret if the kind has one."""
        missing = ["issuer"] if self.base == "oidc" else ["authorization_endpoint", "token_endpoint"]
        secret = [] if self.settings.get("token_endpoint_auth_method") == "none" else ["client_secret_file"]
        needs = ["client_id", *secret, *(key for key in missing if key not in self.settings)]
        return [*needs, *(f"parameters.{name}" for name in self.required())]

    def required(self, given: Iterable[str] = ()) -> list[str]:
        """Return the templates that stand in a value which none of the keys *given* replaces, and have no default."""
        kept = [value for key, value in self.settings.items() if key not in set(given)]
        used = {name for value in kept for name in _names_in(value)}
        return [name for name, template in self.templates.items() if name in used and template.default is None]

    def filled(self, parameters: object = None) -> dict[str, Any]:
        """Return the settings with every template replaced.

        A value is the one of *parameters* if it may stand there, else the default, else the example: what is wrong with
        *parameters* is for `problems` to say, and must not make the settings wrong that hold it.
        """
        given = parameters if isinstance(parameters, dict) else {}
        values = {}
        for name, template in self.templates.items():
            fallback = template.example if template.default is None else template.default
            values[name] = given[name] if template.accepts(given.get(name)) else fallback
        return {key: _replaced(value, values) for key, value in self.settings.items()}

    def problems(self, parameters: object, given: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with *parameters*, each as the name and what is allowed; *given* as for `required`."""
        values = parameters if isinstance(parameters, dict) else {}
        for name in self.required(given):
            if name not in values:
                example = f'parameters = {{ {name} = "{self.templates[name].example}" }}'
                yield name, f"is missing: it is {self.templates[name].description}; write {example}"
        for name, value in values.items():
            template = self.templates.get(name)
            if template is None:
                yield name, self._unknown(name)
            elif not template.accepts(value):
                yield (
                    name,
                    f'must be {template.description}, such as "{template.example}" (pattern: {template.pattern})',
                )

    def _unknown(self, name: str) -> str:
        if not self.templates:
            return f'kind "{self.name}" has no parameters of its own: remove it'
        near = difflib.get_close_matches(name, self.templates, n=1)
        allowed = f"kind {self.name!r} has {', '.join(self.templates)}"
        return f"no such parameter: did you mean {near[0]}?" if near else f"no such parameter: {allowed}"


def names() -> tuple[str, ...]:
    """Return the name of every kind, sorted.

    Raises:
        InvalidSettings: two files have one name, or one has a name that no setting could hold.
    """
    return _names(DIRECTORY)


@functools.cache
def _names(directory: Path) -> tuple[str, ...]:
    files = sorted(directory.glob("*.toml"))
    alike: dict[str, list[str]] = defaultdict(list)
    for path in files:
        alike[path.stem.casefold().replace("_", "-")].append(path.name)
    findings = [
        f"{directory / twins[0]}:1: has the name of {' and '.join(twins[1:])}: a kind is one file"
        for twins in alike.values()
        if len(twins) > 1
    ]
    findings += [
        f"{path}:1: is no name of a kind: lower-case letters, digits and '-', such as een-v3.toml"
        for path in files
        if not _NAME.fullmatch(path.stem)
    ]
    if findings:
        raise InvalidSettings(*findings)
    return tuple(sorted(path.stem for path in files))


def unknown(name: str) -> str:
    """Return the words about a kind that is not in the catalogue: what is near, and what lists all."""
    near = difflib.get_close_matches(name.casefold(), names(), n=3)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return f"no such kind: {meant}`token-broker providers` lists all kinds; oauth2 and oidc are for any other server"


def load(name: str) -> Kind:
    """Return the kind of this *name*, read once.

    Raises:
        InvalidSettings: the file is wrong, one finding a line: `FILE:LINE: KEY: what is allowed`.
    """
    return _load(name, DIRECTORY)


@functools.cache
def _load(name: str, directory: Path) -> Kind:
    path = directory / f"{name}.toml"
    text = path.read_text("utf-8")
    try:
        table = tomllib.loads(text)
        _require_flat(table)
        file = _File.model_validate(table)
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(f"{path}:{not_toml(str(error), text)}") from None
    except ValidationError as error:
        raise InvalidSettings(*(_finding(path, text, found) for found in error.errors())) from None
    except (RecursionError, ValueError):  # thousands of brackets, or of digits
        raise InvalidSettings(f"{path}: is not TOML for a kind of provider") from None
    base = file.base or ("oidc" if name == "oidc" else "oauth2")
    below = _load(base, directory) if name not in BASES else None
    inherited = {key: value for key, value in (below.settings if below else {}).items() if key not in file.settings}
    kind = Kind(
        name=name,
        title=file.title,
        base=base,
        read=file.read,
        settings={**inherited, **file.settings},
        templates=file.template,
        sources={key: below.sources[key] for key in inherited if below and key in below.sources} | file.sources,
        notes=tuple(file.notes.lines),
    )
    if wrong := list(_wrong_templates(file)):
        raise InvalidSettings(*(_place(path, text, keys, words) for keys, words in wrong))
    return kind


def _require_flat(table: object) -> None:
    """Check that tables and lists stand in each other no deeper than any setting does.

    Raises:
        RecursionError: they do, as by a key of a thousand dots; the parser raises it for brackets.
    """
    level = [table]
    for _ in range(_DEEPEST):
        level = [inner for value in level for inner in _inner(value)]
    if level:
        raise RecursionError


def _inner(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _wrong_templates(file: _File) -> Iterator[tuple[Keys, str]]:
    used = set()
    for key, value in file.settings.items():
        found = set(_names_in(value))
        used |= found
        for name in () if key in OF_ANSWERS else sorted(found - file.template.keys() - OF_REGISTRATION):
            yield ("settings", key), f"{{{name}}} has no template: add [template.{name}]"
    for name, template in file.template.items():
        if name not in used:
            yield ("template", name), f"stands in no setting: write {{{name}}} in one, or remove it"
        values = [template.example, *([] if template.default is None else [template.default])]
        try:
            if not all(map(template.accepts, values)):
                yield ("template", name, "pattern"), "must match the example and the default"
        except re.error:
            yield ("template", name, "pattern"), "must be a regular expression"


def fill_in(given: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Return the settings *given* for a provider over those of its kind.

    A key that is given replaces the kind's; of a table, such as authorization_params, each key by itself. A kind's
    client authentication holds for clients with a secret. Where the kind is unknown nothing is added.

    Args:
        given: the settings; None stands for a key that is not there.
        model: the schema of these settings.

    Raises:
        InvalidSettings: the file of the kind is wrong.
    """
    name = given.get("kind")
    settings = {key: value for key, value in given.items() if value is not None}
    if not isinstance(name, str) or name not in names():
        return settings
    kind = _checked(name, model, DIRECTORY)
    filled = kind.filled(given.get("parameters"))
    if not settings.keys() & {"client_secret", "client_secret_file"}:
        filled.pop("token_endpoint_auth_method", None)
    if "token_endpoint" in settings and "account_endpoint" not in settings:
        for key in ("account_endpoint", "account_member", "account_hosts"):  # for tokens of the kind's own server
            filled.pop(key, None)
    if _host(settings.get("token_endpoint")) not in {None, _host(filled.get("token_endpoint"))}:
        for key in OF_TOKENS:  # each would get tokens of the other host
            filled.pop(key, None)
    for key, value in filled.items():
        own = settings.get(key)
        if isinstance(value, dict) and isinstance(own, dict):
            settings[key] = {**value, **own}
        else:
            settings.setdefault(key, value)
    return settings


def _host(url: object) -> str | None:
    """Return host and port of a URL; None where it is none, which is for the schema to say."""
    try:
        return urlsplit(url).netloc.lower() or None if isinstance(url, str) else None
    except ValueError:
        return None


@functools.cache
def _checked(name: str, model: type[BaseModel], directory: Path) -> Kind:
    """Return the kind of this *name*, whose settings are such as *model* has."""
    kind = _load(name, directory)
    allowed = model.model_fields.keys() - REGISTRATION
    path = directory / f"{name}.toml"
    text = path.read_text("utf-8")
    own = tomllib.loads(text).get("settings", {})
    findings = []
    for key in own.keys() - allowed:
        near = difflib.get_close_matches(key, allowed, n=1)
        words = f"no such setting{f': did you mean {near[0]}?' if near else ' of [providers.NAME]'}"
        findings.append(_place(path, text, ("settings", key), words))
    if name not in BASES:
        try:
            model.model_validate({"kind": kind.base, "client_id": "x", "client_secret": "x", **kind.filled()})
        except ValidationError as error:
            at_own = [found for found in error.errors() if found["loc"][0] in own.keys() & allowed]
            findings += [_finding(path, text, found, "settings") for found in at_own]
    if findings:
        raise InvalidSettings(*sorted(findings))
    return kind


def _finding(path: Path, text: str, found: Any, *above: str) -> str:
    keys = (*above, *map(str, found["loc"]))
    if found["type"] == "extra_forbidden":
        return _place(path, text, keys, f"no such key; allowed: {', '.join(_allowed(keys))}")
    words = WORDS.get(found["type"], "is not allowed here").format_map(found.get("ctx", {}))
    return _place(path, text, keys, words)


def _allowed(keys: Keys) -> Iterable[str]:
    inner: dict[str, type[BaseModel]] = {"template": Template, "notes": _Notes}
    return (_File if len(keys) == 1 else inner[keys[0]]).model_fields


def _place(path: Path, text: str, keys: Keys, words: str) -> str:
    lines = lines_of(text)
    line = next((lines[keys[:end]] for end in range(len(keys), 0, -1) if keys[:end] in lines), 1)
    return f"{path}:{line}: {'.'.join(keys)}: {words}"


def _names_in(value: object) -> Iterator[str]:
    """Yield each name in braces within *value*."""
    match value:
        case str():
            yield from _BRACES.findall(value)
        case dict():
            for inner in value.values():
                yield from _names_in(inner)
        case list():
            for inner in value:
                yield from _names_in(inner)
        case _:
            pass


def _replaced(value: Any, values: Mapping[str, str]) -> Any:
    """Return *value* with the names in braces replaced; those that *values* lacks stay."""
    match value:
        case str():
            return _BRACES.sub(lambda match: values.get(match[1], match[0]), value)
        case dict():
            return {key: _replaced(inner, values) for key, inner in value.items()}
        case list():
            return [_replaced(inner, values) for inner in value]
        case _:
            return value
