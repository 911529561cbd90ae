"""The whole table by one command: `python -m tests.chaos --seed 1 --duration 60 --grants 100`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import signal
import sys
import traceback
from collections.abc import Coroutine
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from tests.chaos.judging import Row
from tests.chaos.neighbours import GRANTS, neighbours
from tests.chaos.run import run
from tests.chaos.table import CALM, FAULTS, Fault
from tests.chaos.world import Plan


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="drives all that is random")
    parser.add_argument("--duration", type=float, default=60, help="seconds of each fault")
    parser.add_argument("--grants", type=int, default=100)
    parser.add_argument("--life", type=float, default=10, help="seconds of an access token's life")
    parser.add_argument("--replicas", type=int, default=4, help="at least so many brokers")
    parser.add_argument("--request-timeout", type=float, default=3, help="seconds for one token request")
    parser.add_argument("--patience", type=float, default=100, help="seconds after a fault until all must be fresh")
    parser.add_argument("--journal", choices=["on", "off"], default="on")
    parser.add_argument("--fence", choices=["on", "off"], default="on", help="off: no hold-off on another run of Redis")
    parser.add_argument("--parallel", type=int, default=1, help="so many faults at a time")
    parser.add_argument("--only", default="", help="faults whose name has this in it")
    return parser.parse_args()


_COLUMNS = (
    "store",
    "brokers",
    "alive",
    "unheard",
    "lost",
    "named",
    "reuse",
    "reads",
    "refused",
    "expired",
    "blocked",
    "asked",
    "a minute",
    "calm",
    "not to ask",
    "fresh",
)
_LEGEND = """\
alive: stored refresh tokens that are the server's live ones. unheard: grants whose answer may be lost on its way.
refused, expired, blocked over 1 s: reads while a valid token existed. asked: token requests for each grant.
not to ask: token requests inside a Retry-After (R), for parked grants (P), probes of a suspended provider (S)."""


def _cells(row: Row) -> tuple[str, ...]:
    kept = ((row.inside, "R"), (row.to_parked, "P"), (row.probes, "S"))
    return (
        row.fault.terrain.store,
        str(row.replicas),
        f"{row.alive}/{row.grants}",
        str(row.unheard),
        str(len(row.lost)),
        str(row.named),
        str(row.reuse),
        str(row.reads),
        str(row.withheld["refused"] + row.withheld["cut"]),
        str(row.withheld["expired"]),
        str(row.withheld["blocked"]),
        f"{row.asked:.1f}",
        f"{row.rate:.1f}",
        f"{row.calm:.1f}",
        " ".join(f"{number} {what}" for number, what in kept if number is not None),
        "never" if row.fresh_after is None else f"{row.fresh_after:.1f} s",
    )


def _mark(row: Row) -> str:
    return "skipped" if row.skipped else "broken" if row.problems else "holds"


def table_of(rows: list[Row]) -> Table:
    """Return the rows as a person reads them."""
    table = Table("fault", title="reuse and reads withheld must be 0; lost only what nobody could hear of, and named")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    table.add_column("")
    for row in rows:
        table.add_row(row.fault.title, *_cells(row), _mark(row))
    return table


def line_of(row: Row) -> str:
    """One row as it is said when it is done, whatever becomes of the others; what broke it in lines of its own."""
    figures = ", ".join(f"{name} {cell}" for name, cell in zip(_COLUMNS, _cells(row), strict=True) if cell)
    notes = row.skipped or ", ".join(f"{count} {what}" for what, count in row.notes.items())
    return "\n    ".join([f"{row.fault.title} | {_mark(row)} | {figures} | {notes}", *row.problems])


async def _all(arguments: argparse.Namespace, console: Console) -> list[Row]:
    plan = Plan(
        seed=arguments.seed,
        duration=arguments.duration,
        grants=arguments.grants,
        life=arguments.life,
        replicas=arguments.replicas,
        journal=arguments.journal == "on",
        fence=arguments.fence == "on",
        request_timeout=arguments.request_timeout,
        patience=arguments.patience,
    )
    chosen = [fault for fault in FAULTS if arguments.only in fault.title]
    turn = asyncio.Semaphore(arguments.parallel)
    calm = (await run(CALM, plan)).rate

    async def one(fault: Fault) -> Row:
        async with turn:
            try:
                row = await run(fault, plan, calm)
            except pytest.skip.Exception as skipped:
                row = Row(fault, 0, plan.grants, skipped=str(skipped))
            except Exception:  # noqa: BLE001 - the others are still worth running
                row = Row(fault, 0, plan.grants, problems=[traceback.format_exc()])
            console.print(line_of(row), highlight=False, markup=False, soft_wrap=True)
            return row

    async with asyncio.TaskGroup() as group:  # which waits for all to clean up, even when it is cancelled
        tasks = [group.create_task(one(fault)) for fault in chosen]
    return [task.result() for task in tasks]


async def _until_signal(work: Coroutine[Any, Any, list[Row]]) -> list[Row]:
    """Whoever ends this ends all that it started."""
    task = asyncio.create_task(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)


def main() -> int:
    """Run it; 1 where the invariant broke."""
    arguments = _arguments()
    console = Console(file=sys.stdout, width=max(190, Console().width))  # what brokers leave behind is not printed
    with contextlib.redirect_stdout(io.StringIO()):
        rows = asyncio.run(_until_signal(_all(arguments, console)))
    if not arguments.only:
        with contextlib.redirect_stdout(io.StringIO()):
            late = asyncio.run(neighbours())
        console.print(
            f"{GRANTS} grants of a provider that hangs and {GRANTS} of one that does not, due together: the latter "
            f"refreshed {late.median:.2f} s after their time (median), {late.most:.2f} s at most"
        )
    console.print(table_of(rows), _LEGEND, sep="\n", highlight=False)
    broken = [row for row in rows if row.problems]
    console.print(
        f"seed {arguments.seed}, {arguments.duration:g} s each, {arguments.grants} grants of {arguments.life:g} s, "
        f"journal {arguments.journal}, fence {arguments.fence}: {len(broken)} of {len(rows)} broken"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
