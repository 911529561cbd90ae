"""The screen of `status`, for one grant and for very many, on terminals that people have."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from rich.console import Console

from broker.api.routes.grants import describe
from broker.cli import status
from broker.cli.status import fitted, screen
from broker.model import Grant, State, Token
from broker.secret import Secret


def grant(n: int, state: State = "due", name: str = "") -> dict[str, Any]:
    """Return a described grant."""
    now = int(time.time() * 1000)
    grant_id = name or f"site-{n:04}-cameras"
    end = now + 3_600_000
    token = Token(grant_id, "cameramanager", now, Secret("a"), "Bearer", None, now, end, now + 2_700_000, end)
    reason = "reauthorization_required" if state == "parked" else None
    made = Grant(grant_id, "cameramanager", now, token, now, None, now + 2_700_000, 0, reason, "refreshed", "", now)
    return {**describe(made, state, soon=False, now=now)}


def provider(name: str, due: int = 0, parked: int = 0, failures: int = 0) -> dict[str, Any]:
    """Return a provider as it is listed."""
    return {
        "provider": name,
        "kind": "oauth2",
        "suspended": None,
        "failures": failures,
        "grants": {"due": due, "leased": 0, "parked": parked},
    }


def seen(grants: list[dict[str, Any]], providers: list[dict[str, Any]], checks: int = 0) -> dict[str, Any]:
    """Return what the broker told: at most fifty grants of it."""
    bad = {f"provider {n}": {"status": "degraded", "detail": "failing", "since": 0} for n in range(checks)}
    report = {"status": "degraded" if bad else "ok", "checks": bad}
    return {"health": report, "providers": providers, "grants": grants[:50], "next": "x" if len(grants) > 50 else None}


def lines(monkeypatch: pytest.MonkeyPatch, shown: dict[str, Any], width: int, height: int) -> list[str]:
    """Return the lines on a terminal of that size."""
    console = Console(width=width, height=height, force_terminal=True, color_system=None, highlight=False)
    monkeypatch.setattr(status, "out", console)
    with console.capture() as captured:
        console.print(fitted(shown, height - 1))
    return captured.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60)])
@pytest.mark.parametrize("many", [1, 20, 1000])
def test_it_fits(monkeypatch: pytest.MonkeyPatch, many: int, width: int, height: int) -> None:
    """One grant or a thousand: one screen, nothing cut at its side, and what is left out is counted."""
    grants = [grant(0, "parked"), *(grant(n) for n in range(1, many))]
    shown = lines(monkeypatch, seen(grants, [provider("cameramanager", many - 1, 1)]), width, height)
    assert len(shown) < height
    assert max(map(len, shown)) <= width
    names = [line for line in shown if line.startswith("site-")]
    assert "log in again" in names[0]
    assert "token-broker explain GRANT says why, and what to do." in "\n".join(shown)
    if len(names) < min(many, 50):
        assert len(shown) >= height - 2, "there is room for more"
    said = f"{len(names)} of {many} grants: parked ones first." in "\n".join(shown)
    assert said is (len(names) < many)


def cell(described: dict[str, Any], column: str) -> str:
    """Return what the row of a grant has in a column; the next column begins where its head does."""
    console = Console(width=200, highlight=False)
    with console.capture() as captured:
        console.print(screen(seen([described], [provider("cameramanager", due=1)])))
    rows = captured.get().splitlines()
    at = next(number for number, row in enumerate(rows) if row.startswith("grant "))
    start = rows[at].index(column)
    following = [rows[at].index(head) for head in ("refresh", "log in by", "last")]
    return rows[at + 1][start : min(end for end in following if end > start)].strip()


def test_an_expired_token() -> None:
    """The life of a token that is over is "expired", a refresh that is due is "now"."""
    past = int(time.time()) - 60
    described = grant(1) | {"expires_at": past, "refresh_at": past}
    assert (cell(described, "life"), cell(described, "refresh")) == ("expired", "now")


def test_a_dead_grant() -> None:
    """A person must log in for it now, whatever limit it had."""
    in_two_weeks = {"reauthorize_by": int(time.time()) + 14 * 86_400}
    assert cell(grant(1, "parked") | in_two_weeks, "log in by") == "now"


def test_a_limit_that_is_near() -> None:
    """Until when to log in is shown where the broker says that it is soon, not for an idle limit that moves."""
    limit = {"reauthorize_by": int(time.time()) + 13 * 86_400 + 60}
    assert cell(grant(1) | limit, "log in by") == "-"
    assert cell(grant(1) | limit | {"reauthorize_soon": True}, "log in by") == "13 d"


def test_a_provider_that_was_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its grants are not refreshed, and it says so, even among many; without grants it is no trouble."""
    gone = [provider("acme", due=2) | {"kind": None}, provider("empty") | {"kind": None}]
    shown = lines(monkeypatch, seen([grant(1)], [provider("p"), *gone]), 100, 24)
    assert re.match(r"acme +not in the settings +2 +0 +0 +its grants are not refreshed$", shown[2].rstrip())
    assert any(re.match(r"empty +not in the settings +0 +0 +0 +-$", line.rstrip()) for line in shown)
    assert "token-broker explain GRANT says why, and what to do." in "\n".join(shown)


def test_hundreds_of_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three hundred providers those in trouble are shown, the rest is one line with its sums; grants still fit."""
    providers = [provider(f"p{n:03}", due=10, failures=4 if n in {150, 299} else 0) for n in range(300)]
    shown = lines(monkeypatch, seen([grant(n) for n in range(60)], providers, checks=40), 80, 24)
    text = "\n".join(shown)
    assert len(shown) < 24
    assert "p150" in text
    assert "p299" in text
    more = re.search(r"… and (\d+) more: token-broker health", text)
    assert more is not None
    left = int(more[1])
    rest = next(line for line in shown if line.startswith("… "))
    assert rest.split()[1:4] == [str(260 + left), "more", str(10 * (260 + left))], (
        "as many providers as checks, and sums"
    )
    assert sum(line.startswith("site-") for line in shown) == 3


def test_a_long_name_is_folded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of 128 characters is shown whole, and the lines that it takes are reckoned with."""
    name = "x" * 128
    shown = lines(monkeypatch, seen([grant(n, name=name) for n in range(30)], [provider("cameramanager", 30)]), 80, 24)
    assert len(shown) < 24
    assert "".join(line.split()[0] for line in shown if line.startswith("x")).count(name) >= 1


def test_off_a_terminal_all_is_printed() -> None:
    """A pipe gets every provider, and fifty grants."""
    console = Console(width=200, highlight=False)
    with console.capture() as captured:
        console.print(screen(seen([grant(n) for n in range(60)], [provider(f"p{n}", due=1) for n in range(60)])))
    rows = captured.get().splitlines()
    assert sum(row.startswith("site-") for row in rows) == 50
    assert sum(row.startswith("p") and row[1].isdigit() for row in rows) == 60
    assert "50 of 60 grants" in captured.get()


def test_provider_that_was_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is "not asked yet" until it answers or fails; a broker that does not say counts as one that asked."""
    never = {"answered_at": None}
    providers = [
        {**provider("never"), **never},
        {**provider("failing", failures=1), **never},
        {**provider("asked"), "answered_at": 1_764_000_000},
        provider("older"),
    ]
    shown = lines(monkeypatch, seen([], providers), 80, 40)
    states = {line.split()[0]: line.rstrip().rpartition("  ")[2] for line in shown if "oauth2" in line}
    assert states == {"never": "not asked yet", "failing": "failing: once", "asked": "ok", "older": "ok"}
    rest = [{**provider(f"p{n:03}"), **never} for n in range(40)]
    assert any(line.endswith("not all asked yet") for line in lines(monkeypatch, seen([], rest), 80, 24))
