"""One thing that was looked at: what, why it matters, and what mends it. Pure data."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Level = Literal["error", "failed", "warning", "unknown", "ok"]
"""Wrong settings or files; a connection that fails; works, but not as promised; cannot tell; as it should be."""
LEVELS: tuple[Level, ...] = ("error", "failed", "warning", "unknown", "ok")
WORDS: dict[Level, str] = {
    "error": "error",
    "failed": "failed",
    "warning": "warning",
    "unknown": "cannot tell",
    "ok": "ok",
}
_SETTINGS, _FAILURE = 78, 1


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found at *where*: a place in the settings, a file, the store, a provider."""

    level: Level
    where: str
    what: str
    why: str = ""
    mend: str = ""

    def __str__(self) -> str:
        rest = f" ({self.why})" if self.why else ""
        return f"{WORDS[self.level]}: {self.where}: {self.what}{rest}{f': {self.mend}' if self.mend else ''}"

    def told(self) -> dict[str, str]:
        """For machines."""
        return asdict(self)


def wrong(sentence: str) -> Finding:
    """A finding of `InvalidSettings`: one line, `WHERE: WHAT: WAY OUT`."""
    where, _, what = sentence.partition(": ")
    return Finding("error", where, what) if what else Finding("error", "settings", sentence)


def exit_code(findings: Sequence[Finding], *, strict: bool) -> int:
    """78 where settings or files are wrong; 1 where a connection failed, and for warnings where *strict*; else 0."""
    levels = {finding.level for finding in findings}
    if "error" in levels:
        return _SETTINGS
    return _FAILURE if "failed" in levels or (strict and "warning" in levels) else 0


def summary(findings: Sequence[Finding]) -> str:
    """How many of each."""
    counts = Counter(finding.level for finding in findings)
    return ", ".join(f"{counts[level]} {WORDS[level]}" for level in LEVELS if counts[level] or level == "error")
