"""The screen of `token-broker status`: what the broker answered, as one table that fits a terminal. Asks nobody."""

from __future__ import annotations

import time
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from broker.cli.console import out
from broker.report.grant_facts import ownership_words
from broker.report.times import moment, span
from broker.report.words import life_words, refresh_words

MAX_ROWS = 50
_MIN_ROWS = 3
"""Grants, and providers, that even a small terminal shows."""
_PLAIN: dict[str, Any] = {"box": None, "pad_edge": False, "padding": (0, 1, 0, 0)}
_WELL = frozenset({"alive", "refreshing"})


def fitted(state: dict[str, Any], height: int) -> Table:
    """Return the screen with as many providers and grants as fit *height* lines, and at least a few of each."""
    most, providers = len(state["grants"] or ()), max(_MIN_ROWS, height // 3)
    while True:
        table = screen(state, most=most, providers=providers)
        over = len(out.render_lines(table)) - height
        if over <= 0 or (most <= _MIN_ROWS and providers <= _MIN_ROWS):
            return table
        if most > _MIN_ROWS:
            most = max(_MIN_ROWS, most - over)
        else:
            providers = max(_MIN_ROWS, providers - 1)


def screen(state: dict[str, Any], *, most: int = MAX_ROWS, providers: int | None = None) -> Table:
    """Return the verdict, its causes, the providers and the grants as one table, which fits 80 columns.

    Args:
        state: What the broker answers: `verdict`, `providers`, `grants` and `next`; None for what it cannot answer.
        most: Number of grants to show at most.
        providers: Number of providers, and of causes, to show at most; None: all.
    """
    verdict = state["verdict"]
    grid = Table.grid(padding=(0, 0, 1, 0))
    first, *more = sentences(verdict, providers)
    grid.add_row(Text("\n").join([Text(first, style="bold"), *map(Text, more)]))
    if state["providers"] is None or state["grants"] is None:
        return grid
    if state["providers"]:
        grid.add_row(_providers(state["providers"], verdict.get("providers", {}), providers))
    else:
        grid.add_row("no providers: add [providers.NAME] to the settings")
    if not state["grants"]:
        grid.add_row("no grants yet: token-broker login GRANT --provider P")
        return grid
    now = _now(verdict)
    listed = [grant for grant in state["grants"] if state.get("every") or not _is_well(grant)]
    if listed:
        grid.add_row(_grants(listed[:most], _waits(state), now))
    grid.add_row("\n".join(_sums(state, listed, min(most, len(listed)), now)))
    return grid


def sentences(verdict: dict[str, Any], most: int | None = None) -> list[str]:
    """Return the summary, and the lines of *most* causes: what is wrong since when, what happens next, what to do."""
    lines, causes, now = [verdict["summary"]], verdict["causes"], _now(verdict)
    for cause in causes[:most]:
        since = f" Since {moment(cause['since'], now)}." if cause["since"] else ""
        lines.append(f"  {cause['sentence']}{since}")
        lines += [f"    Next: {cause['next']}"] if cause["next"] else []
        lines += [f"    To do: {cause['action'].rstrip('.')}."] if cause["action"] else []
    if most is not None and len(causes) > most:
        lines.append(f"  … and {len(causes) - most} more: token-broker status --json")
    return lines


def _now(verdict: dict[str, Any]) -> float:
    """Return the time at the broker, which may differ from that of this machine; an older broker does not say it."""
    at: float = verdict.get("at") or time.time()
    return at


def _providers(providers: list[dict[str, Any]], counts: dict[str, Any], most: int | None) -> Table:
    """Return a table of the providers, those in trouble first, with the sums of those beyond *most* in one row.

    *counts* has, by name, how many grants have no valid token; a broker of an older version does not say.
    """
    table = Table("provider", "kind", "grants", "no token", "parked", "state", **_PLAIN)

    def unserved(provider: dict[str, Any]) -> int:
        return int(counts.get(provider["provider"], {}).get("unserved", 0))

    def cells(rows: list[dict[str, Any]]) -> list[str]:
        total = sum(sum(provider["grants"].values()) for provider in rows)
        missing = str(sum(map(unserved, rows))) if counts else "?"
        return [str(total), missing, str(sum(provider["grants"]["parked"] for provider in rows))]

    ranked = sorted(
        providers,
        key=lambda p: (
            not p["suspended"],
            not p["failures"],
            not _is_missing(p),
            not unserved(p),
            not p["grants"]["parked"],
        ),
    )
    for provider in ranked[:most]:
        failures, good = provider["failures"], "ok" if _was_asked(provider) else "not asked yet"
        if not provider["kind"]:
            good = "its grants are not refreshed" if _is_missing(provider) else "-"
        failing = good if not failures else "failing: once" if failures == 1 else f"failing: {failures} in a row"
        table.add_row(
            Text(provider["provider"]),
            provider["kind"] or "not in the settings",
            *cells([provider]),
            Text(f"suspended: {provider['suspended']}" if provider["suspended"] else failing),
        )
    if rest := ranked[len(ranked[:most]) :]:
        troubled = sum(
            bool(provider["suspended"] or provider["failures"] or _is_missing(provider)) for provider in rest
        )
        good = "ok" if all(map(_was_asked, rest)) else "not all asked yet"
        table.add_row(f"… {len(rest)} more", "", *cells(rest), f"{troubled} in trouble" if troubled else good)
    return table


def _is_missing(provider: dict[str, Any]) -> bool:
    """Return whether grants wait for a provider that is not in the settings."""
    return not provider["kind"] and any(provider["grants"].values())


def _was_asked(provider: dict[str, Any]) -> bool:
    """Return whether a provider has answered a request; a broker of an older version does not say."""
    return provider.get("answered_at", 0) is not None


def _is_well(grant: dict[str, Any]) -> bool:
    """Return whether a grant needs no line of its own; of a broker of an older version each has one."""
    return bool(
        grant.get("served", False)
        and grant.get("state_words") in _WELL
        and not grant["failures"]
        and not grant["reauthorize_soon"]
    )


def _waits(state: dict[str, Any]) -> dict[str, int]:
    """Return by provider until when nothing is refreshed there, whatever is due: a pause, or the fence."""
    fences = [cause["next_at"] for cause in state["verdict"]["causes"] if cause["kind"] == "fenced"]
    return {provider["provider"]: max(provider.get("not_before") or 0, *fences, 0) for provider in state["providers"]}


def _grants(grants: list[dict[str, Any]], waits: dict[str, int], now: float) -> Table:
    table = Table(
        Column("grant", overflow="fold"),
        Column("provider", overflow="fold"),
        "state",
        "token",
        "next refresh",
        "log in by",
        **_PLAIN,
    )
    for grant in grants:
        at = max(grant["refresh_at"], waits.get(grant["provider"], 0))
        table.add_row(
            _name(grant),
            Text(grant["provider"]),
            Text(grant.get("state_words") or grant["reason"] or grant["state"]),
            life_words(grant["expires_at"], now),
            "-" if grant["state"] != "due" else refresh_words(at, now),
            _log_in_by(grant, now),
        )
    return table


def _name(grant: dict[str, Any]) -> Text:
    """Return the id of a grant, and below it whose the grant is, as far as that is known."""
    whose = ownership_words(grant)
    return Text.assemble(grant["grant_id"], (f"\n{whose}", "dim")) if whose else Text(grant["grant_id"])


def _log_in_by(grant: dict[str, Any], now: float) -> str:
    """Return until when a person must log in; a limit that is not near, or that each refresh moves, is not shown."""
    if grant["reason"] == "reauthorization_required":
        return "now"
    at = grant["reauthorize_by"]
    return "-" if not (grant["reauthorize_soon"] and at) else span(at - now) if at > now else "now"


def _sums(state: dict[str, Any], listed: list[dict[str, Any]], shown: int, now: float) -> list[str]:
    """Return the lines below the grants: how many are left out, and how many are alive."""
    verdict, lines = state["verdict"], []
    more = state["next"] is not None and len(listed) == len(state["grants"])  # all of the page need a line
    if shown < len(listed) or more:
        total = verdict.get("grants") or sum(sum(each["grants"].values()) for each in state["providers"])
        route = "GET /v1/grants?order=urgent" if "alive" in verdict else "GET /v1/grants"
        lines.append(f"{shown} of {total:,} grants, the most urgent first. {route} lists them all.")
    if verdict.get("alive") is not None and not state.get("every"):
        well = verdict["alive"] - sum(bool(grant.get("served")) for grant in listed)
        end = verdict["next_end_at"]
        if well > 0 and not more:
            ends = f", the next ends in {span(end - now)}" if end else ""
            lines.append(f"{well:,} alive{ends}. token-broker status --all lists {'it' if well == 1 else 'them'}, too.")
    if any(grant["state"] == "parked" for grant in listed) or any(map(_is_missing, state["providers"])):
        lines.append("token-broker explain GRANT says why, and what to do.")
    return lines
