"""The project itself: layers, types, style, and that README and code say the same."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import README, ROOT

TOP_LEVEL = {
    "pyproject.toml",
    "broker",
    "deploy",
    "tests",
    "docker-compose.yml",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "SECURITY.md",
}


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "broker", "tests", "deploy"],
        ["ruff", "format", "--check", "broker", "tests", "deploy"],
        ["mypy"],
        ["lint-imports"],
    ],
    ids=["lint", "format", "types", "layers"],
)
@pytest.mark.timeout(300)
def test_checks_pass(command: list[str]) -> None:
    """Lint, format, strict types and the layers between packages hold."""
    tool = shutil.which(command[0], path=str(Path(sys.executable).parent))
    assert tool is not None, f"{command[0]} is part of the test extra"
    done = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def tracked() -> list[str]:
    """Return the files that belong to the project."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_top_level_is_the_agreed_one() -> None:
    """Nothing stands beside the agreed names but dotfiles."""
    assert {name.split("/")[0] for name in tracked() if not name.startswith(".")} <= TOP_LEVEL


def test_no_file_needs_much_scrolling() -> None:
    """No file has over 400 lines: a longer one is two."""
    long = {
        name: len((ROOT / name).read_text("utf-8").splitlines()) for name in tracked() if name.endswith((".py", ".lua"))
    }
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_readme_begins_with_two_lines_that_run() -> None:
    """The first two sh blocks are one line each: the demo, and the tests."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    demo, tests = blocks[0].strip(), blocks[1].strip()
    assert "\n" not in demo
    assert demo.endswith("token-broker demo")
    assert "\n" not in tests
    assert "pytest" in tests


def test_readme_names_every_setting() -> None:
    """The table of settings in the README is the schema's."""
    from broker.settings import Caller, Provider, Settings

    for table, model in Settings.model_fields.items():
        sections = {"providers": Provider, "callers": Caller}
        annotation = sections.get(table, model.annotation)
        fields = getattr(annotation, "model_fields", {"": None})
        for key in fields:
            name = f"`{table}.NAME.{key}`" if table in sections else f"`{table}.{key}`" if key else f"`{table}`"
            assert name in README, f"{name} is missing in the README's settings"


def test_every_command_is_in_the_readme() -> None:
    """The README names every command."""
    from typer.main import get_command

    from broker.cli import main
    from broker.cli.main import app

    with pytest.raises(SystemExit):
        main(["--version"])
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        assert f"token-broker {name}" in README, name
