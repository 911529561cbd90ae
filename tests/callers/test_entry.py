"""Where a person begins, as the log says it at start: the address of the status page, and which key signs in."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.api.callers import Callers
from broker.api.entry import page_entry
from broker.settings import Settings

WALL = "k" * 43
BOUND = ["http://127.0.0.1:8080", "unix:/run/broker"]


def entry(data: Path, http: dict[str, object] | None = None, **callers: dict[str, object]) -> dict[str, str]:
    """Return what the log says with these callers, whose keys are in *data*."""
    for name, caller in callers.items():
        caller["key_file"] = data / f"{name}.key"
        (data / f"{name}.key").write_text(f"{WALL}{name}")
    settings = Settings.model_validate(
        {"data_dir": data, "redis": {"url": "embedded:"}, "callers": callers, "http": http or {}}
    )
    return page_entry(settings, Callers.load(settings.callers, data), BOUND)


def test_a_first_start(tmp_path: Path) -> None:
    """The file of the key that the broker made; the key itself is not shown."""
    shown = entry(tmp_path)
    assert shown == {"url": "http://127.0.0.1:8080/", "sign_in": f"with the key in {tmp_path}/admin.key"}


@pytest.mark.parametrize(
    ("callers", "sign_in"),
    [
        ({"wall": {"read": ["*"]}, "ops": {"admin": ["*"]}}, "with the key of caller ops"),
        ({"b": {"admin": ["b-*"]}, "admin": {"admin": ["*"]}}, "with the key of caller admin or b"),
        ({"wall": {"read": ["*"]}}, "no caller may: token-broker caller new NAME --admin '*'"),
    ],
    ids=["one of two", "both", "none"],
)
def test_callers_of_the_settings(tmp_path: Path, callers: dict[str, dict[str, object]], sign_in: str) -> None:
    """Where the settings have callers, those of them who may; else the command that makes one."""
    assert entry(tmp_path, **callers)["sign_in"] == sign_in


def test_the_address(tmp_path: Path) -> None:
    """`public_url` with its path; where that serves logins only, the listener that has the page."""
    http: dict[str, object] = {"public_url": "https://example.test/broker/"}
    assert entry(tmp_path, http)["url"] == "https://example.test/broker/"
    assert entry(tmp_path, http | {"public_listen": ["127.0.0.1:8081"]})["url"] == "http://127.0.0.1:8080/"
