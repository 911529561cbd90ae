"""The deployment files as the tests read them."""

from __future__ import annotations

import os
import re
import site
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from broker.errors import InvalidSettings
from broker.settings import Settings
from broker.settings import file as settings_file

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
USERS = DEPLOY / "redis" / "users.acl"
_UNITS = {"s": 1, "m": 60}


def compose() -> dict[str, Any]:
    """docker-compose.yml, merge keys resolved."""
    read: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return read


def seconds(text: str) -> int:
    """Return a duration of docker-compose.yml."""
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([sm])", text))


def instructions(*, stage: str) -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions of one stage ("build" or the last, ""), continued lines joined."""
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
    """deploy/broker.toml as the broker reads it, its client id filled in."""
    return filled_in(DEPLOY / "broker.toml", monkeypatch)


def filled_in(path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the settings of a file in deploy/, with a client id in place of its placeholder."""
    for name in [name for name in os.environ if name.startswith("TOKEN_BROKER_PROVIDERS")]:
        monkeypatch.delenv(name)
    with pytest.raises(InvalidSettings, match="client_id: is a placeholder"):
        settings_file.load(path)
    monkeypatch.setenv("TOKEN_BROKER_PROVIDERS__CAMERAMANAGER__CLIENT_ID", "an-id")
    return settings_file.load(path)


def image(folder: Path) -> dict[str, Path]:
    """Return what the image, or a venv at /opt/token-broker, holds: targets below /opt, and what is to be bound there.

    Our own Python and packages with the checkout's broker: what test_image builds, without building it.
    """
    command = folder / "token-broker"
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    command.write_text(
        "#!/bin/sh\nexport PYTHONHOME=/opt/python PYTHONPATH=/opt/source:/opt/packages PYTHONDONTWRITEBYTECODE=1\n"
        "export LD_LIBRARY_PATH=/opt/python/lib\n"
        f'exec /opt/python/bin/{python} -P -m broker "$@"\n'
    )
    command.chmod(0o755)
    return {
        "/opt/python": Path(sys.base_prefix),
        "/opt/packages": Path(site.getsitepackages()[0]),
        "/opt/source/broker": ROOT / "broker",
        "/opt/token-broker/bin/token-broker": command,
    }


def skip_or_fail(reason: str) -> None:
    """Skip what cannot be checked here; fail in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
