"""Every setting there is, with every kind of wrong value: always a finding for people, never a crash."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from broker.cli.init import init
from broker.cli.sink.settings import Sink
from broker.settings import Caller, NoticeChannel, Provider, Settings
from broker.settings.file import load
from tests.settings.conftest import ACME, REDIS, Wrong

VALUES: list[Any] = [
    -1,
    10**30,
    1.5,
    True,
    "",
    "x",
    " ",
    "\u00e4",
    "\u0000",
    "a" * 5000,
    [],
    [1],
    ["x", 5],
    [[]],
    {},
    {"a": 1},
    {"a": {"b": []}},
]


def _leaves(model: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield f"{path}{name}"
            yield from _leaves(inner, f"{path}{name}.")
        else:
            yield f"{path}{name}"


LEAVES = [
    *_leaves(Settings),
    *_leaves(Provider, "providers.acme."),
    *_leaves(Caller, "callers.wall."),
    *_leaves(NoticeChannel, "notify.channels.team."),
    "providers.acme",
    "callers.wall",
]


def test_every_setting_is_described() -> None:
    """Every field of every table says what it is for, in one line that fits a table cell of the reference."""
    for model in (
        Settings,
        Provider,
        Caller,
        NoticeChannel,
        Sink,
        *(f.annotation for f in Settings.model_fields.values()),
    ):
        for name, field in getattr(model, "model_fields", {}).items():
            words = field.description or ""
            assert 0 < len(words) <= 200, (model, name)
            assert "\n" not in words, (model, name)


def toml(value: Any) -> str:
    """Return a value as TOML spells it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(inner)}" for name, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


@pytest.mark.parametrize("key", LEAVES)
def test_wrong_values(wrong: Wrong, key: str) -> None:
    """Whatever stands there loads, or is found with the key's name and in words for people."""
    base = REDIS + ACME + f'[callers.wall]\nkey_sha256 = "{"0" * 64}"\n'
    if key.startswith("notify.channels."):
        base += '[notify.channels.team]\nkind = "slack"\nurl = "https://acme.test/hook"\n'
    *section, name = key.split(".")
    for value in VALUES:
        line = f"{name} = {toml(value)}\n"
        kept = [row for row in base.splitlines(keepends=True) if not section or row.split(" ")[0] != name]
        header = f"[{'.'.join(section)}]\n"
        text = "".join(kept)
        if key in {"providers", "callers", "redis", "providers.acme", "callers.wall"}:
            text = (line if not section else header + line) + ("" if key == "redis" else REDIS)
        elif not section:
            text = line + text
        else:
            text = text.replace(header, header + line) if header in text else text + header + line
        try:
            findings = wrong(text)
        except pytest.fail.Exception:  # it loads
            continue
        assert any(name in finding for finding in findings), (value, findings)


@pytest.mark.parametrize("kind", ["cameramanager", "een-v3", "oidc", "oauth2"])
def test_init_loads(capsys: pytest.CaptureFixture[str], tmp_path: Any, kind: Any) -> None:
    """What `init` prints loads once its placeholders are filled in, for every kind."""
    init(kind)
    text = capsys.readouterr().out
    file = tmp_path / "broker.toml"
    file.write_text(text.replace("https://…", "https://acme.test").replace("…", "x"))
    settings = load(file)
    assert [provider.kind for provider in settings.providers.values()] == [kind]


def test_init_with_every_comment_opened(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    """The commented lines are settings too: opened, they load, and say what the defaults are."""
    init("oauth2")
    text = (
        re.sub(r"^#(?! )", "", capsys.readouterr().out, flags=re.MULTILINE)
        .replace("https://…", "https://acme.test")
        .replace('key_sha256 = "…"', f'key_sha256 = "{"0" * 64}"')
        .replace('"…"', '"x"')
    )
    file = tmp_path / "broker.toml"
    file.write_text(text)
    (tmp_path / "providers.d").mkdir()
    (tmp_path / "providers.d" / "other.toml").touch()
    settings, plain = load(file), Settings.model_validate({"redis": {"url": "embedded:"}})
    examples = dict.fromkeys(("webhook", "secret_file", "proxy", "proxy_credentials_file"))
    opened = settings.notify.model_copy(update={**examples, "channels": {}})
    assert opened == plain.notify
    assert settings.refresh.model_copy(update={"window": None}) == plain.refresh
    assert settings.http.model_copy(update={"trusted_proxies": []}) == plain.http
    assert (settings.cache, settings.pubsub, settings.log) == (
        plain.cache,
        plain.pubsub,
        plain.log,
    )


def test_init_knows_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    """Every section, and every key of those that have a default, stands in the file or its comments."""
    init("oidc")
    printed = capsys.readouterr().out
    for name, field in Settings.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            assert f"[{name}]" in printed
            missing = [key for key in inner.model_fields if f"{key} = " not in printed]
            assert not missing, name
        else:
            assert f"[{name}." in printed or f"{name} = " in printed, name
