"""Included files: their providers are those of the settings, and what is wrong in one has its file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from broker.settings import Settings
from broker.settings import file as settings_file
from tests.settings.conftest import ACME, REDIS, Wrong

Loaded = Callable[..., Settings]
INCLUDE = 'include = ["providers.d/*.toml"]\n'
OTHER = ACME.replace("acme", "other")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of included files."""
    made = tmp_path / "providers.d"
    made.mkdir()
    return made


def test_providers_of_all_files(loaded: Loaded, folder: Path) -> None:
    """Files are read in sorted order, relative to the settings file, and each once."""
    (folder / "b.toml").write_text(ACME)
    (folder / "a.toml").write_text(OTHER)
    (folder / "c.txt").write_text("not read")
    (folder / ".hidden.toml").write_text("not read")
    folder.with_name("more.toml").write_text(ACME.replace("acme", "last"))
    own = '[providers.own]\nkind = "een-v3"\nclient_id = "x"\n'
    settings = loaded('include = ["providers.d/*.toml", "providers.d/a.toml", "*.toml"]\n' + REDIS + own)
    assert list(settings.providers) == ["own", "other", "acme", "last"]


def test_every_file_is_named(file: Path, loaded: Loaded, folder: Path) -> None:
    """`check` can name each file and its providers."""
    (folder / "a.toml").write_text(ACME + OTHER)
    loaded(INCLUDE + REDIS)
    assert settings_file.files(file) == [(file, ()), (folder / "a.toml", ("acme", "other"))]


def test_where_a_key_of_an_included_file_stands(file: Path, loaded: Loaded, folder: Path) -> None:
    """Findings of `check` name the included file."""
    (folder / "a.toml").write_text("# one\n" + ACME)
    loaded(INCLUDE + REDIS)
    assert settings_file.origins(file)("providers", "acme", "client_id") == f"{folder}/a.toml:4"


def test_a_variable_over_an_included_file(loaded: Loaded, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment wins over included files as over the settings file."""
    (folder / "a.toml").write_text(ACME)
    monkeypatch.setenv("TOKEN_BROKER_PROVIDERS__ACME__CLIENT_ID", "from-the-environment")
    assert loaded(INCLUDE + REDIS).providers["acme"].client_id == "from-the-environment"


def test_include_by_a_variable(loaded: Loaded, wrong: Wrong, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is used in place of the key, and named where it matches nothing."""
    (folder / "a.toml").write_text(ACME)
    monkeypatch.setenv("TOKEN_BROKER_INCLUDE", "providers.d/*.toml")
    assert list(loaded().providers) == ["acme"]
    monkeypatch.setenv("TOKEN_BROKER_INCLUDE", "nowhere/*.toml")
    (finding,) = wrong()
    assert finding.startswith('environment: TOKEN_BROKER_INCLUDE: include (item 1): "nowhere/*.toml" matches no file')


CASES = {
    "an unknown key": (
        ACME + 'skope = "x"\n',
        "a.toml:5: providers.acme.skope: no such key: did you mean scope?",
    ),
    "a missing key": (
        '\n[providers.acme]\nkind = "oauth2"\ntoken_endpoint = "https://acme.test/token"\n',
        "a.toml:2: providers.acme.client_id: is missing: add it below [providers.acme]",
    ),
    "another section": (
        ACME + '[http]\nlisten = ["127.0.0.1:1"]\n',
        (
            "a.toml:5: http: is not allowed in an included file, which may hold [providers.NAME] only: "
            "move it to the settings file"
        ),
    ),
    "a file that includes": (
        'include = ["more/*.toml"]\n' + ACME,
        (
            "a.toml:1: include: is not allowed in an included file, which may hold [providers.NAME] only: "
            "move it to the settings file"
        ),
    ),
    "no table of providers": ("providers = 1\n", "a.toml:1: providers: must be a table, such as [providers.NAME]"),
    "no TOML": (
        "a = 1\n[providers\n",
        "a.toml:2: is not TOML, column 11: expected ']' at the end of a table declaration",
    ),
}


@pytest.mark.parametrize(("text", "sentence"), CASES.values(), ids=CASES)
def test_what_is_wrong_in_an_included_file(wrong: Wrong, folder: Path, text: str, sentence: str) -> None:
    """It is said with that file's name and line, and what is allowed."""
    (folder / "a.toml").write_text(text)
    (finding,) = wrong(INCLUDE + REDIS)
    assert finding.removeprefix(f"{folder}/") == sentence


def test_one_provider_in_two_files(wrong: Wrong, folder: Path) -> None:
    """Both places are named, whichever files they are."""
    (folder / "a.toml").write_text(ACME)
    (folder / "b.toml").write_text("\n" + ACME + OTHER)
    (folder / "c.toml").write_text(OTHER)
    findings = [finding.replace(f"{folder}/", "") for finding in wrong(INCLUDE + REDIS)]
    assert findings == [
        "b.toml:2: providers.acme: stands in a.toml:1 too: keep one of the two",
        "c.toml:1: providers.other: stands in b.toml:6 too: keep one of the two",
    ]
    assert wrong(INCLUDE + REDIS + ACME)[0].endswith("providers.acme: stands in broker.toml:4 too: keep one of the two")


def test_an_include_that_matches_nothing(wrong: Wrong, folder: Path) -> None:
    """It is an error: a mistyped pattern must not start a broker without its providers."""
    assert wrong(REDIS.join(("\n", "")).replace("\n[redis]", "\n" + INCLUDE + "[redis]")) == (
        (
            f'broker.toml:2: include (item 1): "providers.d/*.toml" matches no file in {folder}: write one there, or '
            "remove the pattern"
        ),
    )


@pytest.mark.parametrize("pattern", ["/", ".", "sub*"])
def test_an_include_that_matches_a_folder(wrong: Wrong, folder: Path, pattern: str) -> None:
    """A folder is no file, so the finding names the pattern and its place."""
    (folder / "sub.toml").mkdir()
    (finding,) = wrong(f'include = ["{pattern}"]\n' + REDIS)
    assert finding.startswith(f'broker.toml:1: include (item 1): "{pattern}" matches no file')


@pytest.mark.parametrize("value", ['"providers.d/*.toml"', "[1]", '[""]'])
def test_an_include_that_is_no_list_of_patterns(wrong: Wrong, value: str) -> None:
    """It is said where it stands, and only once."""
    (finding,) = wrong(f"include = {value}\n" + REDIS)
    assert finding.startswith("broker.toml:1: include")


def test_a_file_that_others_may_write(wrong: Wrong, folder: Path) -> None:
    """Whoever writes it could have refresh tokens sent to a server of theirs; likewise whoever may add a file."""
    included = folder / "a.toml"
    included.write_text(ACME)
    included.chmod(0o666)
    (finding,) = wrong(INCLUDE + REDIS)
    assert finding == (
        f"{included}: everybody on this host may write it (mode 0666), and so choose who receives refresh tokens: "
        f"chmod o-w {included}"
    )
    included.chmod(0o644)
    folder.chmod(0o1777)
    (finding,) = wrong(INCLUDE + REDIS)
    assert finding.startswith(f"{included}: everybody on this host may write files in {folder} (mode 1777)")


def test_a_link_to_nowhere(wrong: Wrong, folder: Path) -> None:
    """What matches and cannot be read is said by name."""
    (folder / "a.toml").symlink_to("gone")
    (finding,) = wrong(INCLUDE + REDIS)
    assert finding.startswith(f"{folder}/a.toml: cannot be read by uid ")
