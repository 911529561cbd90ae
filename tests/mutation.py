"""Try the deliberate faults of `mutation.toml`, each in a copy of the tree, and report which of them no test notices.

Owns the list's format, the copies and the verdicts. Writes nothing into the checkout, except the tables of
`mutation.md` with `--write`. Must not know what a fault means.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_suffix(".toml")
PAGE = Path(__file__).with_suffix(".md")
_LEFT_OUT = shutil.ignore_patterns(
    ".git",
    ".venv",
    "venv",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
    ".import_linter_cache",
    "dist",
    "build",
    "node_modules",
)
_STAMPS = itertools.count(1_000_000_000)
"""Modification times of files in the copies, each used once: by them Python knows whether compiled code is current."""
_INTERRUPTED = 130
_NONE_LEFT = 5
"""pytest's exit code where no test was run."""


class BrokenList(Exception):
    """The list does not fit: a file does not contain a fault's old lines exactly once, or a name is unknown."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One deliberate fault, with the paths that its keys stand for."""

    name: str
    file: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...]
    gap: str = ""
    """The id of the test that was written because none of *tests* noticed this fault before; empty where one did."""

    def applied(self, text: str) -> str:
        """Return *text* with the fault in it.

        Raises:
            BrokenList: *text* does not contain the old lines exactly once.
        """
        found = text.count(self.old)
        if found != 1:
            raise BrokenList(f"fault {self.name!r}: {self.file} contains its old lines {found} times, not once")
        return text.replace(self.old, self.new)


class Verdict(StrEnum):
    """What the tests made of a fault."""

    KILLED = "killed"
    TIMED_OUT = "timed out"
    SURVIVED = "survived"
    BROKEN = "broken"
    """Nothing was proved: the tests did not run, or the one that failed fails without the fault too."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A fault, its verdict, and the test that decided it or what went wrong."""

    fault: Fault
    verdict: Verdict
    seconds: float
    detail: str = ""


def load(path: Path = LIST) -> list[Fault]:
    """Return the faults of the list.

    Raises:
        BrokenList: a key of a file or of tests is unknown, a test does not exist, or two faults have one name.
    """
    listed = tomllib.loads(path.read_text("utf-8"))
    faults = [_fault(entry, listed["files"], listed["tests"]) for entry in listed["faults"]]
    twice = [name for name, times in Counter(fault.name for fault in faults).items() if times > 1]
    if twice:
        raise BrokenList(f"faults of the same name: {', '.join(twice)}")
    return faults


def _fault(entry: dict[str, Any], files: dict[str, str], tests: dict[str, str]) -> Fault:
    try:
        named = tuple(tests[key] for key in entry["tests"])
        gap = _found(entry["gap"], named) if "gap" in entry else ""
        return Fault(**(entry | {"file": files[entry["file"]], "tests": named, "gap": gap}))
    except (LookupError, TypeError) as error:
        raise BrokenList(f"fault {entry.get('name')!r}: {error}") from None


def _found(test: str, paths: Sequence[str]) -> str:
    """Return the id of the test of this name in one of these files and folders."""
    for path in (ROOT / path for path in paths):
        for file in sorted(path.rglob("test_*.py")) if path.is_dir() else [path]:
            if f"def {test}(" in file.read_text("utf-8"):
                return f"{file.relative_to(ROOT)}::{test}"
    raise LookupError(f"no test {test} in {', '.join(paths)}")


class Tree:
    """A copy of the checkout, in which one fault at a time is tried."""

    def __init__(self, root: Path, stopping: threading.Event) -> None:
        self.root = root
        self._stopping = stopping
        self._cache = root / ".mutation-cache"
        shutil.copytree(ROOT, root, ignore=_LEFT_OUT, dirs_exist_ok=True)
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        # Before the site-packages, where an editable install names the checkout: brokers that tests start see it too.
        self._environment["PYTHONPATH"] = str(root)

    def imported_from(self) -> Path:
        """Return where `broker` is imported from by a process that tests start, from whatever directory."""
        program = "import broker; print(broker.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=self.root.parent,
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return Path(done.stdout.strip()).resolve()

    @contextlib.contextmanager
    def with_fault(self, fault: Fault) -> Iterator[None]:
        """Put the fault into the copy while the body runs."""
        path = self.root / fault.file
        sound = path.read_text("utf-8")
        self._write(path, fault.applied(sound))
        try:
            yield
        finally:
            self._write(path, sound)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, "utf-8")
        stamp = next(_STAMPS)
        os.utime(path, (stamp, stamp))

    def run(self, tests: Sequence[str], timeout: float) -> tuple[int | None, str]:
        """Run tests in the copy, up to the first that fails.

        Returns:
            pytest's exit code, None if it was ended (after *timeout* seconds, or by Ctrl-C); the end of its output.
        """
        shutil.rmtree(self._cache, ignore_errors=True)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "-p", "no:randomly", "-n", "0"]
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                [*command, "-o", f"cache_dir={self._cache}", *tests],
                cwd=self.root,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code = self._wait(process, timeout)
            output.seek(0)
            return code, "\n".join(output.read().splitlines()[-8:])

    def _wait(self, process: subprocess.Popen[bytes], timeout: float) -> int | None:
        ends = time.monotonic() + timeout
        while time.monotonic() < ends and not self._stopping.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(0.1)
        # First as Ctrl-C does: fixtures then stop the servers that they started.
        for ending in (signal.SIGINT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, ending)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        return None

    def failed(self) -> list[str]:
        """Return the ids of the tests that failed in the last run."""
        path = self._cache / "v" / "cache" / "lastfailed"
        return list(json.loads(path.read_text("utf-8"))) if path.exists() else []


def judge(tree: Tree, fault: Fault, timeout: float) -> Judgement:
    """Try one fault in the copy."""
    began = time.monotonic()

    def judged(verdict: Verdict, detail: str = "") -> Judgement:
        return Judgement(fault, verdict, time.monotonic() - began, detail)

    unsteady: list[str] = []
    first = [fault.gap] if fault.gap else []
    while True:
        with tree.with_fault(fault):
            code, output = tree.run([*first, *fault.tests, *(f"--deselect={test}" for test in unsteady)], timeout)
            failed = tree.failed()[:1]
            again = tree.run(failed, timeout)[0] if code == 1 and failed else code
        if code is None:
            return judged(Verdict.TIMED_OUT, f"no end after {timeout:g} s")
        if code == 0 or (code == _NONE_LEFT and unsteady):
            return judged(Verdict.SURVIVED, "; ".join(["no test noticed", *(f"unsteady: {test}" for test in unsteady)]))
        if code != 1 or not failed:
            return judged(Verdict.BROKEN, output)
        if again != 0:
            break
        # It failed for another reason, such as a busy machine: run the others again, without it.
        unsteady += failed
    code, output = tree.run(failed, timeout)
    if code != 0:
        return judged(Verdict.BROKEN, f"{failed[0]} fails without the fault too:\n{output}")
    return judged(Verdict.KILLED, failed[0])


@dataclass(slots=True)
class Run:
    """The faults to try, and in how many copies at a time."""

    faults: list[Fault]
    timeout: float
    jobs: int
    console: Console
    judgements: list[Judgement] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def all(self) -> bool:
        """Try all faults; return False if it was interrupted."""
        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        with tempfile.TemporaryDirectory(prefix="mutation-") as scratch, progress:
            bar = progress.add_task("faults", total=len(self.faults))
            trees: queue.SimpleQueue[Tree] = queue.SimpleQueue()
            for number in range(min(self.jobs, len(self.faults))):
                trees.put(self._tree(Path(scratch).resolve() / str(number)))
            with ThreadPoolExecutor(self.jobs) as pool:
                try:
                    work = [pool.submit(self._one, trees, fault) for fault in self.faults]
                    for done in as_completed(work):
                        if (judgement := done.result()) is not None:
                            self.judgements.append(judgement)
                            self._say(judgement)
                        progress.advance(bar)
                except KeyboardInterrupt:
                    self.stopping.set()
                    pool.shutdown(cancel_futures=True)
        return not self.stopping.is_set()

    def _tree(self, root: Path) -> Tree:
        tree = Tree(root, self.stopping)
        found = tree.imported_from()
        if not found.is_relative_to(root):
            raise BrokenList(f"the tests would import {found}, not the copy in {root}")
        return tree

    def _one(self, trees: queue.SimpleQueue[Tree], fault: Fault) -> Judgement | None:
        tree = trees.get()
        try:
            judgement = judge(tree, fault, self.timeout)
        except BrokenList as error:
            judgement = Judgement(fault, Verdict.BROKEN, 0, str(error))
        finally:
            trees.put(tree)
        return None if self.stopping.is_set() else judgement

    def _say(self, judgement: Judgement) -> None:
        words = f"{_styled(judgement.verdict)} {judgement.fault.name} ({judgement.seconds:.0f} s)"
        self.console.print(f"{words}: {escape(judgement.detail)}", highlight=False, soft_wrap=True)


_STYLES = {Verdict.KILLED: "green", Verdict.TIMED_OUT: "yellow", Verdict.SURVIVED: "red", Verdict.BROKEN: "magenta"}


def _styled(verdict: Verdict) -> str:
    return f"[{_STYLES[verdict]}]{verdict.value}[/]"


def table_of(judgements: Sequence[Judgement]) -> Table:
    """Make the table of all verdicts, those that need work last."""
    table = Table("fault", "file", "verdict", "noticed by")
    for judgement in sorted(judgements, key=lambda one: list(Verdict).index(one.verdict)):
        noticed = judgement.detail if judgement.verdict is Verdict.KILLED else judgement.detail.splitlines()[0]
        table.add_row(judgement.fault.name, judgement.fault.file, _styled(judgement.verdict), escape(noticed))
    return table


def page(text: str, faults: Sequence[Fault]) -> str:
    """Return *text*, the page, with its two tables made from the list."""
    rows = [f"| `{one.name}` | {one.file} | {one.breaks} | {' '.join(one.tests)} |" for one in faults]
    every = ["| fault | file | the promise it breaks | tests that must notice |", "|---|---|---|---|", *rows]
    gaps = ["| fault | the test that notices it now |", "|---|---|"]
    gaps += [f"| `{one.name}` | {one.gap} |" for one in faults if one.gap]
    for name, lines in (("gaps", gaps), ("faults", every)):
        before, begin, rest = text.partition(f"<!-- {name}: made by `python -m tests.mutation --write` -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not begin or not end:
            raise BrokenList(f"{PAGE.name} has no place for the table of {name}")
        text = f"{before}{begin}{chr(10).join(lines)}\n{end}{after}"
    return text


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="FAULT", help="try these faults alone")
    parser.add_argument("--tests", nargs="+", default=[], metavar="PATH", help="run these instead of those listed")
    parser.add_argument("--list", action="store_true", help="name the faults and try none")
    parser.add_argument("--write", action="store_true", help=f"write the tables of {PAGE.name} and try none")
    parser.add_argument("--jobs", type=int, default=1, help="faults tried at the same time (default 1)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for the tests of one fault (default 300)")
    return parser.parse_args()


def _chosen(faults: list[Fault], names: Sequence[str]) -> list[Fault]:
    unknown = set(names) - {fault.name for fault in faults}
    if unknown:
        raise BrokenList(f"no fault of this name: {', '.join(sorted(unknown))}")
    return [fault for fault in faults if fault.name in names or not names]


def main() -> int:
    """Try the faults that the command line names.

    Returns:
        0 if every fault was noticed, 1 if one survived or proved nothing, 2 if the list does not fit, 130 if it was
        interrupted.
    """
    arguments, console = _arguments(), Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        faults = load()
        if arguments.write:
            PAGE.write_text(page(PAGE.read_text("utf-8"), faults), "utf-8")
            return 0
        chosen = _chosen(faults, arguments.only)
        if arguments.list:
            for fault in chosen:
                console.print(f"{fault.name}  {fault.file}\n    {fault.breaks}", highlight=False, markup=False)
            return 0
        if arguments.tests:
            chosen = [replace(fault, tests=tuple(arguments.tests), gap="") for fault in chosen]
        run = Run(chosen, arguments.timeout, max(1, arguments.jobs), console)
        whole = run.all()
    except BrokenList as error:
        console.print(str(error), style="red", highlight=False, markup=False)
        return 2
    console.print(table_of(run.judgements))
    counts = Counter(judgement.verdict for judgement in run.judgements)
    console.print(", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict), f"of {len(chosen)}")
    if not whole:
        return _INTERRUPTED
    return 1 if counts[Verdict.SURVIVED] or counts[Verdict.BROKEN] else 0


if __name__ == "__main__":
    sys.exit(main())
