"""Fuzz for longer than the suite does: `python -m tests.fuzz [--seconds N] [--seed N] [TARGET...]`.

Each target gets an equal share of the time. Ctrl-C ends at once with the counts so far. The seed that is printed at the
end goes on where this run ended; the seed of a failure finds it again.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tests.fuzz import answers, documents, headers, lines, served
from tests.fuzz.fuzzing import Result, Target, fuzz

_PURE = (*answers.TARGETS, *documents.TARGETS, *lines.TARGETS, *headers.TARGETS)
_SERVED = ("fast-reads", "wire", served.ROUTES)
NAMES = (*(target.name for target in _PURE), *_SERVED)
_EXAMPLES = 20
"""Of schemathesis for each operation in one go."""

Run = Callable[[Result, int, float], None]
"""Fuzz from this seed on, until then, and add to the result."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"one or more of {', '.join(NAMES)}; all if none")
    parser.add_argument("--seconds", type=float, default=600, help="for all targets together (default: 600)")
    parser.add_argument("--seed", type=int, default=1_000, help="of the first round; those of the suite are below 1000")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(NAMES):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return arguments


def _until(target: Target, result: Result, seed: int, until: float) -> None:
    fuzz(target, result, seed=seed, until=until)


def _routes(running: served.Served, result: Result, seed: int, until: float) -> None:
    while time.monotonic() < until:
        key = served.ADMIN if seed % 2 else None
        served.fuzz_routes(running, result, seed, _EXAMPLES, key)
        seed += 1


@contextlib.contextmanager
def _runs(wanted: set[str]) -> Iterator[dict[str, Run]]:
    runs: dict[str, Run] = {target.name: partial(_until, target) for target in _PURE}
    with contextlib.ExitStack() as stack:
        if wanted & set(_SERVED):
            running = stack.enter_context(served.serving())
            runs |= {target.name: partial(_until, target) for target in served.targets(running)}
            runs[served.ROUTES] = partial(_routes, running)
        yield runs


def _table(results: list[Result]) -> Table:
    table = Table("target", "inputs", "seconds", "crashes", "next seed")
    for result in results:
        crashes = Text(str(len(result.crashes)), "red" if result.crashes else "green")
        table.add_row(result.name, f"{result.inputs:,}", f"{result.seconds:.0f}", crashes, str(result.next_seed))
    total = sum(result.inputs for result in results)
    table.add_section()
    table.add_row("all", f"{total:,}", "", str(sum(len(result.crashes) for result in results)), "")
    return table


def main() -> int:
    """Fuzz, show the counts as they grow, then each crash; 1 where there is one."""
    arguments = _arguments()
    wanted = [name for name in NAMES if not arguments.targets or name in arguments.targets]
    console, results = Console(), list[Result]()
    shown = Live(console=console, get_renderable=lambda: _table(results), refresh_per_second=2)
    with _runs(set(wanted)) as runs, contextlib.suppress(KeyboardInterrupt), shown:
        began = time.monotonic()
        for number, name in enumerate(wanted, 1):
            results.append(Result(name, next_seed=arguments.seed))
            until = began + arguments.seconds * number / len(wanted)
            runs[name](results[-1], arguments.seed, until)
    for result in results:
        for place, crash in result.crashes.items():
            console.rule(f"{result.name}: {place} ({crash.times} times)")
            console.print(f"python -m tests.fuzz --seed {crash.seed} {result.name}\ninput: {crash.shown[:2000]}")
            console.print(crash.error, markup=False, highlight=False)
    last = max((result.next_seed for result in results), default=arguments.seed)
    console.print(f"go on with: python -m tests.fuzz --seed {last} {' '.join(arguments.targets)}".rstrip())
    return int(any(result.crashes for result in results))


if __name__ == "__main__":
    sys.exit(main())
