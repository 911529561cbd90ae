"""The screen of `status`, for one grant and for very many, on terminals that people have."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from rich.console import Console

from broker.api.routes.grants import describe
from broker.cli import status, status_screen
from broker.cli.status_screen import fitted, screen
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
    return {**describe(made, state, soon=False, now=now), "served": True, "unserved_since": None}


def provider(name: str, due: int = 0, parked: int = 0, failures: int = 0) -> dict[str, Any]:
    """Return a provider as it is listed."""
    return {
        "provider": name,
        "kind": "oauth2",
        "suspended": None,
        "failures": failures,
        "grants": {"due": due, "leased": 0, "parked": parked},
    }


def seen(grants: list[dict[str, Any]], providers: list[dict[str, Any]], causes: int = 0) -> dict[str, Any]:
    """Return what the broker answers: at most fifty grants of it, each with a line of its own."""
    now = int(time.time())
    cause = {"kind": "failing", "since": now - 60, "next": "The broker tries again.", "next_at": None, "action": None}
    verdict = {
        "status": "ok",
        "summary": f"All {len(grants)} grants have a valid token.",
        "causes": [cause | {"sentence": f"Provider {n} is failing."} for n in range(causes)],
        "grants": len(grants),
        "alive": len(grants),
        "unserved": 0,
        "next_end_at": now + 3_590,
        "providers": {each["provider"]: {"grants": 1, "unserved": 0} for each in providers},
    }
    following = "x" if len(grants) > 50 else None
    return {"verdict": verdict, "providers": providers, "grants": grants[:50], "next": following, "every": True}


def lines(monkeypatch: pytest.MonkeyPatch, shown: dict[str, Any], width: int, height: int) -> list[str]:
    """Return the lines on a terminal of that size."""
    console = Console(width=width, height=height, force_terminal=True, color_system=None, highlight=False)
    monkeypatch.setattr(status_screen, "out", console)
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
    assert "needs a login" in names[0]
    assert "token-broker explain GRANT says why, and what to do." in "\n".join(shown)
    if len(names) < min(many, 50):
        assert len(shown) >= height - 2, "there is room for more"
    said = f"{len(names)} of {many:,} grants, the most urgent first." in "\n".join(shown)
    assert said is (len(names) < many)


def shown_wide(state: dict[str, Any]) -> str:
    """Return the screen off a terminal."""
    console = Console(width=200, highlight=False)
    with console.capture() as captured:
        console.print(screen(state))
    return captured.get()


def cell(described: dict[str, Any], column: str) -> str:
    """Return what the row of a grant has in a column; the next column begins where its head does."""
    rows = shown_wide(seen([described], [provider("cameramanager", due=1)])).splitlines()
    at = next(number for number, row in enumerate(rows) if row.startswith("grant "))
    start = rows[at].index(column)
    following = [rows[at].index(head) for head in ("next refresh", "log in by")] + [len(rows[at]) + 20]
    return rows[at + 1][start : min(end for end in following if end > start)].strip()


def test_an_expired_token() -> None:
    """A token that is over says for how long, and so does a refresh that is late."""
    past = int(time.time()) - 60
    described = grant(1) | {"expires_at": past - 3_600, "refresh_at": past - 60}
    assert re.fullmatch(r"expired 6[12] min ago", cell(described, "token"))
    assert cell(described, "next refresh") == "overdue 2 min"
    assert cell(grant(1) | {"refresh_at": past + 59}, "next refresh") == "now"


def test_a_provider_that_asked_for_a_pause() -> None:
    """No refresh is "now" while the provider takes none, or while all brokers are fenced."""
    now = int(time.time())
    state = seen([grant(1) | {"refresh_at": now - 5}], [provider("cameramanager", due=1) | {"not_before": now + 605}])
    assert re.search(r" in 10 min ", shown_wide(state))
    state = seen([grant(1) | {"refresh_at": now - 5}], [provider("cameramanager", due=1)], causes=1)
    state["verdict"]["causes"][0] |= {"kind": "fenced", "next_at": now + 605}
    assert re.search(r" in 10 min ", shown_wide(state))


def test_grants_that_are_well_are_one_line() -> None:
    """Those that need no line are summed; `--all` lists them."""
    state = seen([grant(0, "parked"), *(grant(n) for n in range(1, 40))], [provider("cameramanager", 39, 1)])
    every = shown_wide(state)
    assert every.count("site-") == 40
    assert " alive, the next" not in every
    short = shown_wide(state | {"every": False})
    assert re.findall(r"^site-\S+", short, re.MULTILINE) == ["site-0000-cameras"]
    assert "39 alive, the next ends in 60 min." in short


def test_a_broker_without_a_verdict() -> None:
    """Of an older version: it is said, nothing is counted that is not known, and its grants have a line each."""
    state = seen([grant(1)], [provider("cameramanager", due=1)])
    old = {name: value for name, value in state["grants"][0].items() if name not in {"state_words", "served"}}
    shown = shown_wide(state | {"verdict": status._NO_VERDICT, "grants": [old], "every": False})
    assert shown.startswith("This broker is of an older version, which gives no verdict (GET /v1/verdict): upgrade it")
    assert re.search(r"^cameramanager +oauth2 +1 +\? +0 +ok", shown, re.MULTILINE)
    assert re.search(r"^site-0001-cameras +cameramanager +due ", shown, re.MULTILINE)
    assert "alive" not in shown


def test_causes_have_lines() -> None:
    """What is wrong since when, what happens next, and what a person must do."""
    state = seen([grant(1)], [provider("cameramanager", due=1)], causes=1)
    state["verdict"]["causes"][0] |= {"action": "Restart it", "since": int(time.time()) - 300}
    shown = shown_wide(state).splitlines()
    assert re.fullmatch(r"  Provider 0 is failing\. Since [-\d: ]+ \(5 min ago\)\. *", shown[1])
    assert [line.strip() for line in shown[2:4]] == ["Next: The broker tries again.", "To do: Restart it."]


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
    shown = lines(monkeypatch, seen([grant(n) for n in range(60)], providers, causes=40), 80, 24)
    text = "\n".join(shown)
    assert len(shown) < 24
    assert "p150" in text
    assert "p299" in text
    more = re.search(r"… and (\d+) more: token-broker status --json", text)
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
    text = shown_wide(seen([grant(n) for n in range(60)], [provider(f"p{n}", due=1) for n in range(60)]))
    rows = text.splitlines()
    assert sum(row.startswith("site-") for row in rows) == 50
    assert sum(row.startswith("p") and row[1].isdigit() for row in rows) == 60
    assert "50 of 60 grants" in text


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
