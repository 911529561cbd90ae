"""`sink`: files that follow a grant's token, for services that only read files."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, Done, Home, lines
from tests.cli.sinking import ask, current, events, holds, hooks, inodes, refresh, sinking, take_in
from tests.waiting import until

NOBODY = 65534
root = pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away and mounts")


def need(program: str) -> str:
    """Return the path of a program of the system; without it the test is skipped, but not in CI."""
    path = shutil.which(program)
    if path is None and os.environ.get("CI"):
        pytest.fail(f"{program} is not installed")
    return path or pytest.skip(f"{program} is not installed")


async def test_files_follow_the_token(home: Home) -> None:
    """Every form, whatever the umask: written on a new token alone, with one hook a change, over restarts of both."""
    broker = await home.run()
    token = await take_in(home, "g1")
    answer = await ask(home, "GET", "/v1/grants/g1/token")
    reader = "import signal, time\nsignal.signal(1, lambda *_: print('HUP', flush=True))\nprint('up', flush=True)\n"
    reader += "while True: time.sleep(60)"
    victim = subprocess.Popen([sys.executable, "-c", reader], stdout=subprocess.PIPE, cwd=home.directory)
    home.started.append(victim)
    assert victim.stdout is not None
    victim.stdout.readline()
    (home.directory / "pid").write_text(f"{victim.pid}\n")
    hook = f'exec = ["sh", "-c", "echo ran >> {home.directory}/hooked"]'
    owner = f'owner = "{NOBODY}"\ngroup = "{NOBODY}"\n' if os.getuid() == 0 else ""
    (home.directory / "sinks.toml").write_text(
        textwrap.dedent(f"""
        [[sink]]
        grant = "g1"
        file = "token"
        mode = "0640"
        {hook}
        [[sink]]
        grant = "g1"
        file = "token.json"
        format = "json"
        {hook}
        [[sink]]
        grant = "g1"
        file = "token.env"
        format = "env"
        mode = "0444"
        signal = "HUP"
        pid_file = "pid"
        [[sink]]
        grant = "g1"
        file = "header"
        format = "header"
        exec = ["/nowhere/hook"]
        [[sink]]
        grant = "g1"
        file = "netrc"
        format = "netrc"
        machine = "api.acme.test"
    """)
        + owner
    )
    files = [home.directory / name for name in ("token", "token.json", "token.env", "header", "netrc")]
    sink = sinking(home, "--sinks", "sinks.toml", umask=0)
    await until(lambda: all(path.exists() for path in files))
    assert [path.read_text() for path in files] == [
        token,
        json.dumps({name: value for name, value in answer.items() if name != "expires_in"}) + "\n",
        f"ACCESS_TOKEN={token}\nACCESS_TOKEN_EXPIRES_AT={answer['expires_at']}\n",
        f"Authorization: Bearer {token}\n",
        f"machine api.acme.test login oauth2 password {token}\n",
    ]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o640, 0o600, 0o444, 0o600, 0o600]
    if owner:
        assert (files[4].stat().st_uid, files[4].stat().st_gid) == (NOBODY, NOBODY)
    hooked = home.directory / "hooked"
    ran = hooks(*files[:2])  # two files, one hook
    await until(lambda: holds(hooked, "ran\n" * ran))
    assert (await asyncio.to_thread(victim.stdout.readline)).strip() == b"HUP"
    await until(lambda: events(home, "hook.failed"))
    assert events(home, "hook.failed")[0]["error"] == "cannot be run (No such file or directory)"

    before = inodes(*files)
    assert await home.stop(sink) == 0
    sink = sinking(home, "--sinks", "sinks.toml", umask=0o077)
    files[1].chmod(0o644)
    await home.stop(broker)
    await home.run()
    await until(lambda: stat.S_IMODE(files[1].stat().st_mode) == 0o600, 20)
    await asyncio.sleep(0.7)  # longer than a hook is held back
    assert inodes(*files) == before
    assert holds(hooked, "ran\n" * ran)

    token = await refresh(home, "g1")
    await until(lambda: holds(files[0], token), 20)
    await until(lambda: all(token in path.read_text() for path in files[:2]))
    ran += hooks(*files[:2])
    await until(lambda: holds(hooked, "ran\n" * ran))
    assert stat.S_IMODE(files[2].stat().st_mode) == 0o444
    assert token in files[1].read_text()
    await until(lambda: all(new != old for new, old in zip(inodes(*files), before, strict=True)))
    began = time.monotonic()
    assert await home.stop(sink) == 0
    assert time.monotonic() - began < 2
    assert all(token in path.read_text() for path in files)
    assert [path.name for path in home.directory.glob(".*.new")] == []
    log = (home.directory / "sink.log").read_text()
    assert not [secret for secret in home.sandbox.secrets() if len(secret) > 5 and secret in log]
    assert len(events(home, "sink.waiting")) <= 5  # one for each file, while the broker was away


def test_no_wider_rights_at_any_time(tmp_path: Path) -> None:
    """A file is made with its owner's rights alone, then given away, then opened up, then filled, then renamed."""
    strace = need("strace")
    code = (
        "import os, pathlib\nfrom broker.cli.sink.token_file import TokenFile\nos.umask(0)\n"
        f"TokenFile(pathlib.Path({str(tmp_path / 'token')!r}), owner=None, group={str(os.getgid() or NOBODY)!r}, "
        "mode=0o640, in_place=False).write(b'the-token')"
    )
    trace = tmp_path / "trace"
    watched = "openat,fchown,fchmod,write,rename,renameat,renameat2,chmod"
    done = subprocess.run(
        [strace, "-f", "-o", trace, "-e", f"trace={watched}", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in done.stderr or "not permitted" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    traced = [line.split(None, 1)[1] for line in trace.read_text().splitlines()]
    begin = next(i for i, line in enumerate(traced) if "/.token." in line and "O_CREAT" in line)
    made = traced[begin]
    assert "O_EXCL" in made
    assert "0600" in made
    calls = [
        re.sub("at2?$", "", line.split("(")[0]) for line in traced[begin:] if not line.startswith(("openat", "+++"))
    ]
    expected = ["fchown", "fchmod", "write", "rename"] if os.getgid() == 0 else ["fchmod", "write", "rename"]
    assert calls[: len(expected)] == expected
    assert (tmp_path / "token").read_bytes() == b"the-token"


@root
async def test_bind_mounted_file(home: Home) -> None:
    """A file that is itself a mount cannot be renamed onto: it is written in place, and emptied when it must go."""
    unshare = need("unshare")
    await home.run()
    token = await take_in(home, "g1")
    (home.directory / "outside").write_text("x" * 5000)
    (home.directory / "inside").touch()
    (before,) = inodes(home.directory / "outside")
    once = f"{COMMAND} sink --once --grant g1 --file inside --mode 0604"
    script = f"mount --bind outside inside || exit 9; {once} && {once} && cat inside"
    process = subprocess.Popen(
        [unshare, "-m", "sh", "-c", script],
        cwd=home.directory,
        env=home.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    home.started.append(process)
    out, said = await asyncio.to_thread(process.communicate)
    if process.returncode == 9 or b"unshare" in said:
        pytest.skip("no mount namespaces here")
    assert (process.returncode, out.decode()) == (0, token), said
    assert inodes(home.directory / "outside") == [before]
    assert (home.directory / "outside").read_text() == token
    assert stat.S_IMODE((home.directory / "outside").stat().st_mode) == 0o604
    assert said.count(b"sink.written") == 1


async def test_once(home: Home) -> None:
    """For an init container: 0 written, 75 no broker yet, 77 a person must log in, 78 wrong settings, else 1."""
    arguments = ("sink", "--once", "--grant", "g1", "--file", "token")
    done = await home(*arguments)
    assert (done.code, "no broker answers" in done.err) == (75, True)
    await home.run()
    done = await home(*arguments)
    assert (done.code, lines(done.err)) == (1, ["token-broker: g1: no such grant"])
    home.sandbox.rotating.faults.order("status", status=400, body={"error": "invalid_grant"})
    dead = home.sandbox.rotating.issue().refresh_token
    await ask(home, "PUT", "/v1/grants/dead", json={"provider": "acme", "refresh_token": dead})
    token = await take_in(home, "g1") if await until(partial(_is_dead, home)) else ""
    done = await home("sink", "--once", "--grant", "dead", "--file", "dead")
    assert (done.code, "log in" in done.err) == (77, True)
    assert not (home.directory / "dead").exists()
    done = await home(*arguments, "--in-place", "--exec", f"touch '{home.directory}/a b'")
    assert (done.code, (home.directory / "token").read_text()) == (0, token)
    assert (home.directory / "a b").exists()
    (inode,) = inodes(home.directory / "token")
    token = await refresh(home, "g1")
    assert (await home(*arguments, "--in-place")).code == 0
    assert inodes(home.directory / "token") == [inode]
    assert holds(home.directory / "token", token)
    (home.directory / "sinks").write_text(
        "".join(f'[[sink]]\ngrant = "{grant}"\nfile = "{grant}.token"\n' for grant in ("g1", "dead", "none"))
    )
    assert (await home("sink", "--once", "--sinks", "sinks")).code == 77
    assert holds(home.directory / "g1.token", token)
    home.settings.write_text("[http]\nlisten = 7\n")
    for wanted in (arguments, ("sink", "--once", "--sinks", "sinks")):
        done = await home(*wanted)
        assert (done.code, "http.listen" in done.err) == (78, True), "a service that starts now has no token"


async def _is_dead(home: Home) -> bool:
    return bool((await ask(home, "GET", "/v1/grants/dead"))["state"] == "parked")


async def test_dead_grant(home: Home) -> None:
    """A dead grant's file is kept until its token has expired, and then kept or removed; a login brings both back."""
    home.sandbox.rotating.options.access_lifetime = 4
    await home.run()
    token = await take_in(home, "g1")
    kept, removed = home.directory / "kept", home.directory / "removed"
    sinks = [
        sinking(home, "--grant", "g1", "--file", "kept"),
        sinking(home, "--grant", "g1", "--file", "removed", "--on-expiry", "remove"),
    ]
    await until(lambda: kept.exists() and removed.exists())
    home.sandbox.rotating.faults.order("status", None, status=400, body={"error": "invalid_grant"})
    await ask(home, "POST", "/v1/grants/g1/retry")
    token = await current(home, "g1")
    await until(lambda: holds(kept, token) and holds(removed, token))
    await until(lambda: not removed.exists(), 20)
    await until(lambda: len(events(home, "sink.expired")) >= 2)
    assert holds(kept, token)
    await until(lambda: len(events(home, "sink.reauthorization_required")) >= 2)
    assert sorted(event["kept"] for event in events(home, "sink.expired")) == [False, True]
    home.sandbox.rotating.faults.clear()
    home.sandbox.rotating.options.access_lifetime = 3600
    again = home.sandbox.rotating.issue().refresh_token
    await ask(home, "PUT", "/v1/grants/g1", json={"provider": "acme", "refresh_token": again})
    await until(lambda: removed.exists() and kept.read_text() != token, 40)
    assert removed.read_text() == kept.read_text() == await current(home, "g1")
    assert [await home.stop(sink) for sink in sinks] == [0, 0]


WRONG: list[tuple[tuple[str, ...], int, str]] = [
    ((), 2, "give --grant and --file, or --sinks FILE"),
    (("x", "--sinks", "y"), 2, "give --sinks alone"),
    (("x", "--exec", "echo 'x"), 2, "no closing quotation"),
    (("x", "--mode", "rw"), 78, '--mode: must be three octal digits in quotes, such as "0640"'),
    (("x", "--format", "netrc"), 78, "--machine: is missing: netrc needs the host"),
    (("x", "--signal", "HUP"), 78, "--pid-file: is missing: name the file"),
    (("x", "--signal", "HUPP"), 78, "--signal: must be the name of a signal"),
    (("x", "--owner", "nobody-by-this-name"), 78, "there is no user 'nobody-by-this-name'"),
    (("x", "--grant", "a b"), 78, "--grant: must begin with a letter or digit"),
    (("nowhere/x",), 1, "there is no directory"),
    (("a-directory",), 1, "exists and is not a regular file"),
    (("a-link",), 1, "exists and is not a regular file"),
]
WRONG_FILES = [
    (None, "cannot be read by uid"),
    ("", "write a [[sink]] table"),
    ("[[sink]\n", "is not TOML"),
    ('sink = "x"', "write a [[sink]] table"),
    ('[[sink]]\ngrant = "g"\nfile = "x"\n' * 2, "is the file of two sinks"),
    ('[[sink]]\ngrant = "g"\nfiel = "x"\n', "sink 1: file: is missing\ntoken-broker: sinks5: sink 1: fiel: no such"),
    (f"a = {'9' * 5_000}\n", "is not TOML"),
]


async def test_wrong_words(home: Home) -> None:
    """What cannot work is said at once: which option or key, what is allowed, and what to do."""
    (home.directory / "a-directory").mkdir()
    (home.directory / "a-link").symlink_to("elsewhere")
    tried = [("--grant", "g1", "--file", *words) if words else () for words, _, _ in WRONG]
    several = await home.each([("sink", *arguments) for arguments in tried])
    for (words, code, says), done in zip(WRONG, several, strict=True):
        assert done.code == code, (words, done)
        assert says in re.sub(r"[\u2502\s]+", " ", done.err), (words, done.err)
    for number, (text, _) in enumerate(WRONG_FILES):
        if text is not None:
            (home.directory / f"sinks{number}").write_text(text)
    several = await home.each([("sink", "--sinks", f"sinks{number}") for number in range(len(WRONG_FILES))])
    for (_, says), done in zip(WRONG_FILES, several, strict=True):
        assert (done.code, says in done.err) == (78, True), done.err


async def test_directory_that_is_not_ours(home: Home) -> None:
    """Who may not write in the directory is told so before the first token; a file in it that is theirs will do."""
    directory, before = home.directory / "etc", list[str]()
    directory.mkdir()
    (directory / "mine").touch()
    if os.getuid() == 0:  # root without its right to write everywhere, and to give away
        before = [need("setpriv"), "--bounding-set", "-dac_override,-dac_read_search,-chown"]
        os.chown(directory, NOBODY, NOBODY)
    else:
        directory.chmod(0o555)
    await home.run()
    token = await take_in(home, "g1")

    async def sink(*arguments: str) -> Done:
        process = subprocess.Popen(
            [*before, COMMAND, "sink", "--once", "--grant", "g1", "--file", *arguments],
            cwd=home.directory,
            env=home.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        home.started.append(process)
        return await home.ended(process)

    done = await sink("etc/token")
    assert done.code == 1
    assert f"cannot be written by uid {os.getuid()} (Permission denied): let that user write in" in done.err
    done = await sink("etc/mine")
    assert (done.code, holds(directory / "mine", token)) == (0, True), done.err
    done = await sink("theirs", "--owner", str(NOBODY))
    assert (done.code, "cannot be given to that owner or group" in done.err) == (1, True)
    assert not list(home.directory.glob("*theirs*"))
    directory.chmod(0o755)


@pytest.mark.parametrize("when", ["before", "during"])
async def test_a_change_is_told_before_the_end(home: Home, when: str) -> None:
    """A sink that is told to stop between a change and its hook, or in it, has it run: the next one finds no change."""
    await home.run()
    await take_in(home, "g1")
    marks = home.directory / "marks"
    command = f"echo begun >> {marks}; sleep 1; echo ended >> {marks}"
    sink = sinking(home, "--grant", "g1", "--file", "token", "--exec", f"sh -c '{command}'")
    await until((home.directory / "token").exists if when == "before" else marks.exists)
    sink.send_signal(signal.SIGTERM)
    done = await home.ended(sink)
    assert done.code == 0
    assert marks.read_text().splitlines()[-1] == "ended"
