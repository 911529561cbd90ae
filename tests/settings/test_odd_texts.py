"""Settings that no editor writes and fuzzing found: NUL characters, control characters in keys, no table at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.settings import file as settings_file
from tests.settings.conftest import ACME, REDIS, Wrong


@pytest.mark.parametrize(
    "text",
    [
        'data_dir = "a\\u0000"\n' + REDIS,
        'include = ["\\u0000/*"]\n' + REDIS,
        REDIS + '[sealing]\nkeys_file = "/a\\u0000"\n',
        REDIS + '[http]\nlisten = ["unix:/a\\u0000"]\n',
        REDIS + ACME + 'client_secret_file = "/a\\u0000"\n',
        REDIS + ACME + 'token_params = { a = "\\u0000" }\n',
    ],
)
def test_nul(wrong: Wrong, text: str) -> None:
    """No text holds a NUL character: a path with one would be a traceback where it is used."""
    (finding,) = wrong(text)
    assert "holds a NUL character (\\u0000), which no name of a file or server can: remove it" in finding


def test_nul_in_a_variable(wrong: Wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a list or a table of the environment."""
    monkeypatch.setenv("TOKEN_BROKER_INCLUDE", '["\\u0000/*"]')
    assert [finding for finding in wrong() if "holds a NUL character" in finding]


@pytest.mark.parametrize("key", ['"a\\n\\u001b[2Jb"', '"\\u202e"', '"\\r"'])
def test_keys_that_control_a_terminal(wrong: Wrong, key: str) -> None:
    """A finding is one line of printable text, whatever a key is."""
    for finding in wrong(f"{REDIS}{key} = 1\n[providers.{key}]\nx = 1\n"):
        assert finding.isprintable(), finding


@pytest.mark.parametrize("value", ["0", '"acme"', "[[]]", "[1]"])
def test_providers_that_are_no_table(wrong: Wrong, file: Path, value: str) -> None:
    """That is a finding, and what was read can be described all the same."""
    (finding,) = wrong(f"providers = {value}\n{REDIS}")
    assert "providers: must be a table" in finding
    assert settings_file.files(file) == [(file, ())]
    assert settings_file.read_from(file) == ([file], [])
