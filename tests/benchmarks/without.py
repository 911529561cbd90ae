"""Run `token-broker` without one trick: `python -m tests.benchmarks.without NAME run --config …`.

Imports nothing of the broker before its source texts are changed.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Trick:
    """What is taken away: by module, texts and what stands in their place."""

    path: Literal["write", "read", "mixed"]
    without: dict[str, list[tuple[str, str]]]
    latency_ms: float = 0


TRICKS = {
    "slotted": Trick(
        "write",
        {
            "broker.model": [
                ("return dataclass(slots=True)(cls)", "return dataclass(frozen=True, slots=True)(cls)"),
            ]
        },
    ),
    "nonces": Trick("write", {"broker.secret": [("nonce = _nonce()", "nonce = os.urandom(_NONCE_BYTES)")]}),
    "orjson": Trick(
        "write",
        {
            "broker.token_answer": [
                ("return orjson.dumps(value, default, _NO_DATACLASSES).decode()", "raise TypeError"),
                ("return orjson.loads(data)", "return json.loads(data)"),
            ]
        },
    ),
    "gather": Trick(
        "write", {"broker.refresh.scheduler": [("await asyncio.sleep(SLOT_PAUSE)", "pass")]}, latency_ms=10
    ),
    "gather-0ms": Trick("write", {"broker.refresh.scheduler": [("await asyncio.sleep(SLOT_PAUSE)", "pass")]}),
    "gather-journal": Trick("write", {"broker.journal.journal": [("await asyncio.sleep(_BATCH_PAUSE)", "pass")]}),
    "thirds": Trick("write", {"broker.refresh.concurrency": [("_BATCHES = (2, 3)", "_BATCHES = (3, 3)")]}),
    "halves-10ms": Trick(
        "write", {"broker.refresh.concurrency": [("_BATCHES = (2, 3)", "_BATCHES = (2, 2)")]}, latency_ms=10
    ),
    "batches-10ms": Trick(
        "write", {"broker.refresh.concurrency": [("_BATCHES = (2, 3)", "_BATCHES = (1, 1)")]}, latency_ms=10
    ),
    "garbage-collection": Trick("write", {"broker.service": [("    collect_less()\n", "    pass\n")]}),
    "cached-answers": Trick(
        "read", {"broker.api.cached_responses": [("entry = self._entries.get(key)", "entry = None")]}
    ),
    "raw-answers": Trick(
        "read", {"broker.api.cached_responses": [("return entry.raw", "return entry.content.to_response()")]}
    ),
    "past-the-router": Trick(
        "read",
        {
            "broker.api.dispatcher": [
                (
                    "read = self._find_read(message.method, message.path)",
                    "read = None",
                )
            ]
        },
    ),
    "audit-guard": Trick("read", {"broker.api.audit": [('if logs.is_enabled("debug"):', "if True:")]}),
    "pacing": Trick(
        "mixed",
        {"broker.refresh.scheduler": [("if self._read_activity.recent and not self._urgent:", "if False:")]},
        latency_ms=20,
    ),
}


class Without(importlib.machinery.SourceFileLoader):
    """Load a module with some of its source text replaced."""

    changes: list[tuple[str, str]]

    def get_code(self, fullname: str) -> Any:
        """Compile the changed source; no cached code is read or written."""
        source = Path(self.path).read_text("utf-8")
        for old, new in self.changes:
            if source.count(old) != 1:
                sys.exit(f"{fullname}: expected exactly once: {old!r}")
            source = source.replace(old, new)
        return compile(source, self.path, "exec")


class Finder:
    """Find the modules that are to be changed."""

    def __init__(self, without: dict[str, list[tuple[str, str]]]) -> None:
        self._without = without

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Find *name* as Python does, with another loader where it is to be changed."""
        if name not in self._without:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.origin is not None
        loader = Without(name, spec.origin)
        loader.changes = self._without[name]
        return importlib.util.spec_from_loader(name, loader, origin=spec.origin)


def run_without(name: str, arguments: list[str]) -> None:
    """Be `token-broker` without one trick."""
    if imported := [module for module in TRICKS[name].without if module in sys.modules]:
        sys.exit(f"imported too early: {', '.join(imported)}")
    sys.meta_path.insert(0, Finder(TRICKS[name].without))
    from broker.cli import main as token_broker

    token_broker(arguments)


if __name__ == "__main__":
    run_without(sys.argv[1], sys.argv[2:])
