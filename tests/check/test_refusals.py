"""What must not start: `check` and `run` refuse the same, in the same words, before anything is asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.check.secret_files import KEYS, with_secrets
from tests.cli.conftest import Home, home

__all__ = ["home"]  # the fixture

ONE_LINE = ["password", "client", "header", "caller", "notify", "proxy"]
"""Secrets that stand alone in their file; that of the sealing keys has a line for each."""


async def refused(home: Home, key: str) -> str:
    """Return what `check` and `run` say of *key*, alike; nothing of the broker was begun."""
    done, ran = await home("check"), await home("run")
    assert (done.code, ran.code) == (78, 78), (done.out, ran.err)
    lines = [line.removeprefix("error: ") for line in done.out.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    assert key in lines[0]
    assert ran.err.strip() == f"token-broker: {lines[0]}"
    return lines[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, content) for name in ONE_LINE for content in ("one\ntwo\n", "${SECRET}\n")),
        *((name, content) for name in ("client", "sealing") for content in (None, "\n", "…")),
    ],
)
async def test_secret_files(home: Home, name: str, content: str | None) -> None:
    """A secret file that is missing, empty, of two lines or filled with a placeholder is named with its cure."""
    path = with_secrets(home)[name]
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    line = await refused(home, KEYS[name])
    assert str(path) in line
    assert "SECRET}" not in line


async def test_unreadable_secret_file(home: Home) -> None:
    """A secret file that this process may not read is named with its owner."""
    if os.getuid() == 0:
        path = Path(with_secrets(home)["client"])
        path.unlink()
        path.mkdir()  # root reads everything but a directory
    else:
        path = with_secrets(home)["client"]
        path.chmod(0)
    assert str(path) in await refused(home, KEYS["client"])


async def test_placeholders_in_a_client_secret_file(home: Home) -> None:
    """Words of an example are refused in a client secret's file, and allowed as a password of Redis."""
    paths = with_secrets(home)
    paths["client"].write_text("changeme\n")
    line = await refused(home, KEYS["client"])
    assert line == (
        f"{KEYS['client']}: {paths['client']} holds a placeholder (it consists of the words of an example): write the "
        "client secret into it, and nothing else"
    )
    paths["client"].write_text("a-client-secret\n")
    paths["password"].write_text("changeme\n")
    assert (await home("check")).code == 0


@pytest.mark.parametrize("provider", ["cameramanager", "een-v3", "oidc", "oauth2"])
async def test_what_init_prints(home: Home, provider: str) -> None:
    """The first file starts nothing until it is filled in: every open key is named, by both commands."""
    home.settings.write_text((await home("init", "--provider", provider)).out)
    done, ran = await home("check"), await home("run")
    assert (done.code, ran.code) == (78, 78)
    found = {line.removeprefix("error: ") for line in done.out.splitlines() if "is a placeholder" in line}
    assert any(".client_id: " in line for line in found)
    assert found == {line.strip().removeprefix("token-broker: ") for line in ran.err.splitlines()}
    assert not (home.directory / "data").exists()
