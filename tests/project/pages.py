"""The project's pages: reading them, and the parts that tests compare or run."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.paths import ROOT

_FENCE = re.compile(r"\s*(`{3,}|~{3,})")


def tracked() -> list[str]:
    """Return the files that belong to the project."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def page(name: str) -> str:
    """Return the text of the page *name*, a path from the root of the project."""
    return (ROOT / name).read_text("utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Return the contents of the code blocks of *language*."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def generated(text: str, name: str) -> str:
    """Return what stands between the markers of the generated part *name*."""
    begin, end = f"<!-- begin generated: {name} -->\n", f"\n<!-- end generated: {name} -->"
    assert text.count(begin) == text.count(end) == 1, name
    return text.partition(begin)[2].partition(end)[0]


def outside_code(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of every line that is in no code block."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        match = _FENCE.match(line)
        if match and not fence:
            fence = match[1]
        elif match and line.strip() == fence:
            fence = ""
        elif not fence:
            yield number, line


def links(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and target of every link, those of images and reference definitions too."""
    for number, line in outside_code(text):
        bare = re.sub(r"(`+).+?\1", "", line)
        for target in re.findall(r"\]\(\s*<?([^)\s>]+)", bare) + re.findall(r"^\[[^\]]+\]:\s*(\S+)", bare):
            yield number, target


def anchors(text: str) -> set[str]:
    """Return the anchors of a page: its headings as GitHub names them, and the ids in its HTML."""
    seen: Counter[str] = Counter()
    found: set[str] = set()
    for _, line in outside_code(text):
        found |= set(re.findall(r'<a\s+(?:id|name)="([^"]+)"', line))
        if heading := re.match(r"#{1,6}\s+(.*?)\s*#*$", line):
            words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found
