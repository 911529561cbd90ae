"""`demo`: everything in one process, seen by a pipe and by a terminal, and gone without a trace."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
from pathlib import Path

from broker.cli.demo import life_style
from tests.cli.conftest import COMMAND, Home, read_until


def _place(out: str) -> Path:
    found = re.search(r"@(\S+)/key\.header", out)
    assert found is not None, out
    return Path(found[1])


def _servers(directory: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if entry.readlink().is_relative_to(directory):
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


async def test_lines(home: Home) -> None:
    """Off a terminal: a line for each login and refresh, one that fetches a token in a shell, then the end."""
    process = home.start("demo", "--seconds", "6", "--lifetime", "3", env={"TOKEN_BROKER_REDIS__URL": "nonsense"})
    read = await read_until(process, "curl ")
    key = (_place(read[-1]) / "data" / "admin.key").read_text().strip()
    page = re.search(
        r"^Status page: (http://127\.0\.0\.1:\d+/) \(sign in with the key that `cat (\S+)` prints\)$",
        "".join(read),
        re.MULTILINE,
    )
    assert page is not None
    assert Path(page[2]).read_text().strip() == key
    assert b"<title>" in await asyncio.to_thread(subprocess.check_output, ["curl", "-fsS", page[1]])
    assert (_place(read[-1]) / "key.header").stat().st_mode & 0o777 == 0o600
    assert key not in "".join(read)
    fetched = await asyncio.to_thread(subprocess.check_output, ["/bin/sh", "-c", read[-1]])
    assert b'"access_token"' in fetched
    done = await home.ended(process)
    assert (done.code, done.err) == (0, "")
    for grant in ("demo-cameras", "demo-een", "demo-oidc"):
        assert f"{grant} logged in generation=" in done.out
        assert f"{grant} refreshed generation=" in done.out, done.out
    assert "\u001b" not in done.out
    assert done.out.endswith("The demo has stopped everything and removed its files.\n")
    assert not _place(read[-1]).exists()


def test_a_bar_has_the_colour_of_what_is_left() -> None:
    """Green for most of a life, yellow about the refresh, red where none came."""
    assert [life_style(part) for part in (1, 0.5, 0.25, 0.15, 0.1, 0)] == ["green"] * 2 + ["yellow"] * 2 + ["red"] * 2


async def test_ctrl_c(home: Home) -> None:
    """Ctrl-C ends it within seconds; no server and no directory stays."""
    process = home.start("demo")
    out = "".join(await read_until(process, "demo-"))
    place = _place(out)
    assert _servers(place)
    process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(process.wait, 5) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert not place.exists()
    assert not _servers(place)


async def test_terminal(home: Home) -> None:
    """On a terminal of 80 columns a table is drawn that fits, with a bar for the life that is left."""
    process = subprocess.Popen(
        ["script", "-qefc", f"stty cols 80; {COMMAND} demo --seconds 2 --lifetime 3", "/dev/null"],
        cwd=home.directory,
        env=home.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    home.started.append(process)
    done = await home.ended(process)
    assert done.code == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.out)
    table = [row for row in plain.replace("\r", "\n").splitlines() if row.startswith("demo-")]
    assert {row.split()[0] for row in table} == {"demo-cameras", "demo-een", "demo-oidc"}
    assert all("\u2501" in row and "\u2026" not in row and len(row) <= 80 for row in table), table[:3]
