"""The pages: their links lead somewhere, they are short enough to read, and what they show is valid."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from broker.errors import InvalidSettings
from broker.settings.file import load
from tests.paths import ROOT
from tests.project.pages import anchors, blocks, links, outside_code, page, tracked

PAGES = (
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    ".github/CONTRIBUTING.md",
    "broker/README.md",
    "broker/api/README.md",
    "broker/cli/README.md",
    "broker/client/README.md",
    "broker/notify/README.md",
    "broker/process/EVENTS.md",
    "broker/providers/OPENID_CONNECT.md",
    "broker/providers/README.md",
    "broker/settings/README.md",
    "deploy/FAILURES.md",
    "deploy/README.md",
    "deploy/prometheus/README.md",
)


def _all_pages() -> list[str]:
    return [name for name in tracked() if name.endswith(".md")]


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.replace(r"\|", " ").strip().strip("|").split("|")]


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_there(name: str) -> None:
    """Every page exists, begins with its title, and the front page links to it."""
    assert page(name).startswith("# ")
    if name != "README.md":
        assert name in {target.partition("#")[0] for _, target in links(page("README.md"))}


def test_links_lead_somewhere() -> None:
    """Every relative link names a tracked file or folder, and every anchor exists on its page."""
    files = set(tracked())
    folders = {str(parent) for name in files for parent in Path(name).parents}
    broken = []
    for name in _all_pages():
        for number, target in links(page(name)):
            if "://" in target or target.startswith("mailto:"):
                continue
            path, _, anchor = unquote(target).partition("#")
            to = (ROOT / name).parent.joinpath(path).resolve() if path else ROOT / name
            relative = str(to.relative_to(ROOT))
            if relative not in files | folders or (anchor and anchor not in anchors(page(relative))):
                broken.append(f"{name}:{number}: {target}")
    assert broken == []


def test_pictures_are_small() -> None:
    """Pages show three pictures, the front page first: PNG files of less than 150 KB that no wheel contains."""
    shown = [
        (ROOT / name).parent.joinpath(target).resolve()
        for name in PAGES
        for _, target in links(page(name))
        if target.endswith(".png")
    ]
    assert shown[0].name == "status-page.png"
    assert sorted(shown) == sorted(ROOT.joinpath("deploy/pictures").iterdir())
    assert len(shown) == 3
    assert {picture.read_bytes()[:8] for picture in shown} == {b"\x89PNG\r\n\x1a\n"}
    assert max(picture.stat().st_size for picture in shown) < 150_000
    assert not list(ROOT.joinpath("broker").rglob("*.png")), "the wheel contains all of broker/"


def test_anchors_are_named_as_github_does() -> None:
    """A heading's anchor has no punctuation, and a second one of the same words has a number."""
    text = '# A & B\n## `x.y`: why?\n## [Link](x.md)\n## Twice\n## Twice\n```\n# no heading\n```\n<a id="y"></a>'
    assert anchors(text) == {"a--b", "xy-why", "link", "twice", "twice-1", "y"}


def test_the_front_page_is_short() -> None:
    """The README is read in five minutes: 8 KiB at most."""
    assert (ROOT / "README.md").stat().st_size <= 8192


def test_lines_and_cells_are_short() -> None:
    """Prose stays within 120 characters a line, and a table's cell within 200, so that a page can be read anywhere."""
    long = []
    for name in _all_pages():
        for number, line in outside_code(page(name)):
            if line.startswith("|"):
                long += [f"{name}:{number}: {len(cell)}" for cell in _cells(line) if len(cell) > 200]
            elif len(line) > 120:
                long.append(f"{name}:{number}: {len(line)}")
    assert long == []


def _toml() -> list[tuple[str, str]]:
    return [(name, block) for name in PAGES for block in blocks(page(name), "toml")]


@pytest.mark.parametrize(("name", "block"), _toml(), ids=[f"{name}-{n}" for n, (name, _) in enumerate(_toml())])
def test_settings_on_pages_are_valid(name: str, block: str, tmp_path: Path) -> None:
    """Every piece of settings that a page shows is accepted, beside an embedded store, but for what is to fill in."""
    file = tmp_path / "broker.toml"
    file.write_text(f'[redis]\nurl = "embedded:"\n{block}', "utf-8")
    findings: tuple[str, ...] = ()
    try:
        load(file)
    except InvalidSettings as error:
        findings = error.findings
    assert [finding for finding in findings if "is a placeholder" not in finding] == []


def test_the_drawings_show_both_paths() -> None:
    """The first two drawings go from due to publish, and from request to response."""
    write, read = blocks(page("broker/README.md"), "mermaid")[:2]
    assert re.findall(r"<b>([\w ]+)</b>", write)[0] == "due"
    assert {"claim", "request", "journal", "commit", "publish"} < set(re.findall(r"<b>([\w ]+)</b>", write))
    assert {"request", "memory", "store", "response"} < set(re.findall(r"<b>([\w ]+)</b>", read))


def _named_files(text: str) -> set[str]:
    """Return the files and folders that the architecture page names: in code spans, drawings and the tree."""
    named = set(re.findall(r"`([\w./]+(?:\.(?:py|lua|js|toml|md|acl)|/))`", text))
    for drawing in blocks(text, "mermaid"):
        named |= set(re.findall(r"[\w/]+\.(?:py|lua)", drawing))
    folder = ""
    for line in blocks(text, "text")[0].splitlines():
        if begin := re.match(r"([\w/]+/) ", line):
            folder = begin[1]
            named.add(folder)
        elif line and not line.startswith(" "):
            folder = ""
        for name in re.findall(r"[\w/]+(?:\.py|/)(?=[ ,)]|$)", line):
            named.add(name if name == folder or "/" in name.rstrip("/") else folder + name)
    return named


def test_the_architecture_names_what_exists() -> None:
    """Every file and folder that the architecture page names exists, below `broker/` or below the root."""
    named = _named_files(page("broker/README.md")) - {"store/lua/VERB.lua", "broker/"}
    assert len(named) > 60
    assert {name for name in named if not ((ROOT / "broker" / name).exists() or (ROOT / name).exists())} == set()
