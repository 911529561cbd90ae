"""`providers` and `init --provider`: what the catalogue has, and a first settings file for each kind of it."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from broker.settings import catalogue
from broker.settings.file import load
from tests.cli.conftest import COMMAND


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that needs no broker."""
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, check=False, env=os.environ | {"NO_COLOR": "1"}
    )


def test_all_are_listed() -> None:
    """Name, title and needs of every kind, for people in one line each and for machines."""
    lines = command("providers").stdout.splitlines()
    described = json.loads(command("providers", "--json").stdout)
    assert [line.split()[0] for line in lines[1:]] == [each["kind"] for each in described] == [*catalogue.names()]
    assert described[-1]["needs"] == list(catalogue.load(described[-1]["kind"]).needs)


@pytest.mark.parametrize("name", catalogue.names())
def test_one_is_shown(name: str) -> None:
    """Every setting, every source, every parameter and every note of a kind."""
    kind = catalogue.load(name)
    done = command("providers", name)
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert words.startswith(f"{name}: {kind.title}. ")
    assert (f"The sources were read on {kind.read}." in words) == bool(kind.sources)
    for key in (*kind.settings, *kind.templates):
        assert f" {key}" in words
    for said in (*kind.sources.values(), *kind.notes):
        assert " ".join(said.split()) in words
    assert json.loads(command("providers", name, "--json").stdout)["settings"] == dict(kind.settings)


def test_an_unknown_kind() -> None:
    """The error says what is near and what lists all, for both commands."""
    for arguments in (("providers", "een"), ("init", "--provider", "een")):
        done = command(*arguments)
        assert done.returncode == 2
        assert "did you mean een-v3" in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize("name", catalogue.names())
def test_init(name: str, tmp_path: Path) -> None:
    """The file has placeholders for what the kind needs, says what to register, and loads once they are filled in."""
    kind = catalogue.load(name)
    text = command("init", "--provider", name).stdout
    assert "# Register this redirect URI there: http://127.0.0.1:8080/callback" in text
    assert 'client_id = "…"' in text
    assert all(f"parameters.{parameter} is " in text for parameter in kind.templates)
    provider = tomllib.loads(text)["providers"].popitem()[1]
    given = {f"parameters.{name}" for name in provider.get("parameters", {})} | provider.keys() - {"parameters", "kind"}
    assert given == set(kind.needs)
    for parameter, template in kind.templates.items():
        text = text.replace(f'{parameter} = "…"', f'{parameter} = "{template.example}"')
    (tmp_path / "broker.toml").write_text(text.replace("https://…", "https://acme.test").replace("…", "x"), "utf-8")
    assert [each.kind for each in load(tmp_path / "broker.toml").providers.values()] == [name]
