"""The generated tables of the documentation are what the code makes of them."""

from __future__ import annotations

import shutil

import pytest

from broker.settings import Provider
from tests.reference.pages import CELL, ROOT, differing, pages, parts, renewed, table
from tests.reference.settings import FILLED_IN
from tests.reference.tables import TABLES


def test_pages_are_current() -> None:
    """Every page holds the tables that the code makes; `python -m tests.reference` writes them."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    changed = [str(path.relative_to(ROOT)) for path in differing(pages(), TABLES)]
    assert changed == [], "renew them: python -m tests.reference"


def test_every_table_has_a_page() -> None:
    """Each table stands on one page."""
    found = [name for path in pages() for name in parts(path.read_text("utf-8"))]
    assert sorted(found) == sorted(TABLES)


def test_what_is_not_theirs_stays() -> None:
    """The command changes nothing outside its markers, and a marker that is wrong is an error."""
    begin, end = "<!-- begin generated: a -->\n", "<!-- end generated: a -->\n"
    quoted = "the line `<!-- begin generated: NAME -->`\n"
    assert renewed(f"x\n{begin}old\n{end}{quoted}", {"a": lambda: "new"}) == f"x\n{begin}new\n{end}{quoted}"
    for text in (begin, end, begin.replace(": a", ": b") + end.replace(": a", ": b")):
        with pytest.raises(ValueError, match=r"markers without|no such table"):
            renewed(text, {"a": lambda: "new"})


def test_cells() -> None:
    """A sign that ends a cell is escaped; a cell that is too long, or has two lines, is an error."""
    assert table(("a", "b"), [("x|y", "z")]) == "| a | b |\n|---|---|\n| x\\|y | z |"
    for cell in ("x" * (CELL + 1), "x\ny"):
        with pytest.raises(ValueError, match="a cell has one line"):
            table(("a",), [(cell,)])


def test_kinds_tell_of_every_setting() -> None:
    """A setting of a provider that its kind can fill in is in the table of kinds, or said to be the same for all."""
    optional = {name for name, field in Provider.model_fields.items() if field.default is None}
    assert optional - {"client_secret_file", "client_secret", "issuer", "proxy", "proxy_credentials_file"} == set(
        FILLED_IN
    )
