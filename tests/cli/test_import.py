"""`import`: what is counted, what is refused, what a terminal shows, and that it may be repeated."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess

from tests.cli.conftest import C_LOCALE, COMMAND, Home, line, lines
from tests.waiting import until


async def test_import(home: Home) -> None:
    """Lines are counted by what became of them, refused ones named with their number; a second time changes nothing."""
    await home.run()
    text = "\ufeff" + line(home, "g1") + "\r\n" + line(home, "g2", note="M\u00fcnchen") + "{\n" + line(home, "a b")
    text += line(home, "g3", provider="nope") + line(home, "g4").rstrip("\n")
    (home.directory / "grants.ndjson").write_text(text, "utf-8")
    done = await home("import", "grants.ndjson")
    assert (done.code, done.out) == (1, "3 created, 3 refused\n")
    printed = lines(done.err)
    assert [refused.split(":")[0] for refused in printed] == ["line 4", "line 5", "line 6 (g3)"]
    assert "\u001b" not in done.err
    tokens = [(await home("token", grant)).out for grant in ("g1", "g2", "g4")]
    assert all(tokens)
    done = await home("import", "-", stdin=text.encode())
    assert (done.code, done.out) == (1, "3 unchanged, 3 refused\n")
    assert json.loads((await home("import", "--json", "grants.ndjson")).out) == {"unchanged": 3, "refused": 3}
    assert [(await home("token", grant)).out for grant in ("g1", "g2", "g4")] == tokens
    process = subprocess.Popen(
        [COMMAND, "import", "-"],
        cwd=home.directory,
        env={"PATH": os.environ["PATH"], **C_LOCALE},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    home.started.append(process)
    refused = line(home, "g9", provider="M\u00fcnchen")
    done = await home.ended(process, refused.encode())
    assert (done.code, done.out) == (1, "1 refused\n")
    assert "Traceback" not in done.err


async def test_nothing_to_import(home: Home) -> None:
    """An empty file is no mistake, one that is not there is; nobody running is 75, a bad key 1."""
    (home.directory / "empty").write_text("")
    assert (await home("import", "empty")).code == 75
    await home.run()
    done = await home("import", "empty")
    assert (done.code, done.out) == (0, "There is nothing to import: the input has no line.\n")
    for file, words in (("missing", "No such file or directory"), (".", "Is a directory")):
        done = await home("import", file)
        assert (done.code, done.out) == (1, "")
        assert lines(done.err) == [f"token-broker: {file}: cannot be read ({words})"]
    (home.directory / "big").write_text('{"grant_id": "x", "provider": "acme"}\n' * 100_000)
    done = await home("import", "big", env={"TOKEN_BROKER_KEY": "unknown"})
    assert done.code in {1, 75}
    assert len(lines(done.err)) == 1


async def test_progress_on_a_terminal(home: Home) -> None:
    """On a terminal a bar shows how far it is; the counts stay when it is gone."""
    await home.run()
    (home.directory / "many").write_text('{"grant_id": "x"}\n' * 3_000)
    typescript = home.directory / "typescript"
    script = f"stty cols 80; {COMMAND} import many 2>&1 | cat >&2; {COMMAND} import many"
    process = subprocess.Popen(
        ["script", "-qefc", script, str(typescript)],
        cwd=home.directory,
        env=home.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    home.started.append(process)
    await asyncio.to_thread(process.wait, 40)
    piped, _, shown = typescript.read_text("utf-8", "replace").partition("3000 refused")
    assert "\u2501" not in piped
    assert "\u2501" in shown
    assert "3000 refused" in shown
    plain = re.sub("\u001b\\[[0-9;?]*[A-Za-z]", "", shown)
    bar = "[\u2501\u2578\u257a ]+"
    assert re.search(rf"importing {bar}\d+% \d+ lines, \d+/s \d+:\d\d:\d\d", plain), "count, rate and time left"


async def test_interrupted(home: Home) -> None:
    """At Ctrl-C in the middle: exit 130, how many lines were processed, and how to go on; going on does the rest."""
    await home.run()
    process = home.start("import", "-")
    assert process.stdin is not None
    process.stdin.write(line(home, "g1").encode())

    async def imported() -> bool:
        return (await home.get("/v1/grants/g1"))[0] == 200

    await until(imported)
    await asyncio.sleep(0.2)  # the outcome has arrived, too
    process.send_signal(signal.SIGINT)
    await asyncio.to_thread(process.wait, 20)
    done = await home.ended(process)
    assert (done.code, done.out) == (130, "")
    (printed,) = lines(done.err)
    assert printed.startswith("token-broker: interrupted: 1 lines were processed")
    assert "importing the whole file again" in printed
    assert (await home("import", "-", stdin=line(home, "g2").encode())).out == "1 created\n"


async def test_broker_goes_away(home: Home) -> None:
    """A broker that dies in the middle: exit 75, how many lines were taken, and that repeating is safe."""
    broker = await home.run()
    process = home.start("import", "-")
    assert process.stdin is not None
    process.stdin.write(line(home, "g1").encode())
    process.stdin.flush()

    async def imported() -> bool:
        return (await home.get("/v1/grants/g1"))[0] == 200

    await until(imported)
    broker.send_signal(signal.SIGKILL)
    await asyncio.to_thread(broker.wait)
    done = await home.ended(process, line(home, "g2").encode())
    assert done.code == 75, done
    (printed,) = lines(done.err)
    assert "broke off its response" in printed
    assert "1 lines were processed, and importing the whole file again is safe" in printed
    for pid in home.left_behind():
        os.kill(pid, signal.SIGTERM)
    await until(lambda: not home.left_behind())
