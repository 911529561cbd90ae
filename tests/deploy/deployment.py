"""The deployment files as the tests read them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from broker import settings_source
from broker.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
_UNITS = {"s": 1, "m": 60}


def compose() -> dict[str, Any]:
    """docker-compose.yml, merge keys resolved."""
    read: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return read


def seconds(text: str) -> int:
    """A duration of docker-compose.yml."""
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([sm])", text))


def instructions(*, stage: str) -> list[tuple[str, str]]:
    """The Dockerfile's instructions of one stage ("build" or the last, ""), continued lines joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    found: dict[str, list[tuple[str, str]]] = {}
    current = "before"
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            current = rest.partition(" AS ")[2]
        found.setdefault(current, []).append((word, rest.strip()))
    return found[stage]


def deployed_settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """deploy/broker.toml as the broker reads it."""
    for name in [name for name in os.environ if name.startswith("TOKEN_BROKER_")]:
        monkeypatch.delenv(name)
    return settings_source.load(DEPLOY / "broker.toml")


def skip_or_fail(reason: str) -> None:
    """What cannot be checked here is passed over; in CI it is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
