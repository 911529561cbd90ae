"""Writing a settings file and reading what is found wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.errors import InvalidSettings
from broker.settings import Settings
from broker.settings import file as settings_file

REDIS = '[redis]\nurl = "embedded:"\n'
ACME = '[providers.acme]\nkind = "oauth2"\nclient_id = "x"\ntoken_endpoint = "https://acme.test/token"\n'
PROGRAMMERS = re.compile(
    r"pydantic|[Ii]nput should|Extra inputs|Value error|Field required|<class|Traceback|valid (string|list|dict)"
    r"|unable to parse|type=|function-"
)
"""Words that a person who edits a settings file must never read."""

Wrong = Callable[..., tuple[str, ...]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the settings file of the test is."""
    return tmp_path / "broker.toml"


@pytest.fixture
def wrong(file: Path) -> Wrong:
    """Return the findings in a settings file of the given text, each checked to be one line for people."""

    def find(text: str | bytes = REDIS) -> tuple[str, ...]:
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        with pytest.raises(InvalidSettings) as caught:
            settings_file.load(file)
        for finding in caught.value.findings:
            assert finding.startswith((str(file.parent), "environment: TOKEN_BROKER_")), finding
            assert "\n" not in finding
            assert not PROGRAMMERS.search(finding), finding
        return tuple(finding.replace(f"{file}", "broker.toml") for finding in caught.value.findings)

    return find


@pytest.fixture
def loaded(file: Path) -> Callable[..., Settings]:
    """Return the settings in a file of the given text."""

    def load(text: str = REDIS) -> Settings:
        file.write_text(text)
        return settings_file.load(file)

    return load
