"""One result of a check: what was found, why it matters, and the cure. Pure data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Level = Literal["error", "failed", "warning", "unknown", "ok"]
"""Wrong settings or files; a failed connection; works, but not as promised; unknown; as it should be."""
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
    cure: str = ""

    def __str__(self) -> str:
        why = f" ({self.why})" if self.why else ""
        return f"{WORDS[self.level]}: {self.where}: {self.what}{why}{f': {self.cure}' if self.cure else ''}"

    def to_json(self) -> dict[str, str]:
        """Return the finding for `check --json`, where the cure is called `mend`."""
        return {"level": self.level, "where": self.where, "what": self.what, "why": self.why, "mend": self.cure}


def from_error(sentence: str) -> Finding:
    """Make a finding of one line of `InvalidSettings`: `WHERE: WHAT: CURE`."""
    where, _, what = sentence.partition(": ")
    return Finding("error", where, what) if what else Finding("error", "settings", sentence)


def exit_code(findings: Sequence[Finding], *, strict: bool) -> int:
    """Return 78 for wrong settings or files; 1 for a failed connection, and for warnings if *strict*; else 0."""
    levels = {finding.level for finding in findings}
    if "error" in levels:
        return _SETTINGS
    return _FAILURE if "failed" in levels or (strict and "warning" in levels) else 0


def summary(findings: Sequence[Finding]) -> str:
    """Return how many findings of each level there are, except those that are ok: `no errors, 2 warnings`."""
    counts = Counter(finding.level for finding in findings)
    texts = ["no errors"] if not counts["error"] else []
    for level in LEVELS[:-1]:
        if count := counts[level]:
            plural = "s" if level in {"error", "warning"} and count > 1 else ""
            texts.append(f"{count} {WORDS[level]}{plural}")
    return ", ".join(texts)
