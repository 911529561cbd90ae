"""Commands that need nothing: help, version, init, keys and callers; and settings that are wrong."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib

import pytest

from broker.cli.new_file import CannotCreate, create_private
from broker.secret import key_digest, parse_sealing_keys
from tests.cli.conftest import C_LOCALE, COMMAND, Home, lines

COMMANDS = [
    (),
    ("run",),
    ("providers",),
    ("health",),
    ("status",),
    ("login",),
    ("logout",),
    ("token",),
    ("retry",),
    ("import",),
    ("init",),
    ("demo",),
    ("caller",),
    ("caller", "new"),
    ("keys",),
    ("keys", "new"),
    ("keys", "reseal"),
    ("move",),
    ("explain",),
    ("notify",),
    ("notify", "test"),
    ("sink",),
    ("check",),
    ("reload",),
]


async def test_help(home: Home) -> None:
    """Every command has help, every option and argument in it has words, and none is wider than 80 columns."""
    several = await home.each([(*command, "--help") for command in COMMANDS], env={"COLUMNS": "80"})
    for command, done in zip(COMMANDS, several, strict=True):
        assert done.code == 0
        assert done.err == ""
        assert max(map(len, done.out.splitlines())) <= 80
        rows = [
            row.strip("\u2502 *")
            for row in done.out.splitlines()
            if re.match(r"\u2502 [* ]*(--[a-z-]+|[A-Z|-]{2,}|[a-z]+(?= +[A-Z]))\s", row)
        ]
        assert rows, command
        for row in rows:
            words = re.split(r"\s{2,}", row)
            assert len(words) > 1, (command, row)
            assert re.search(r"[a-z]{2,}", words[-1]), (command, row)
        assert "[default: " in done.out or "--config" not in done.out
        assert "<bool>" not in done.out, "a flag has no value"
        assert "at Ctrl-C" in done.out or command != ("demo",)


async def test_every_command_is_tried(home: Home) -> None:
    """The list above is whole: a command that is added has its help looked at."""
    done = await home("--help")
    listed = re.findall(r"^\u2502 ([a-z]+) ", done.out, re.MULTILINE)
    assert set(listed) == {command[0] for command in COMMANDS if command}
    titles = re.findall(r"^\u256d\u2500 (\w+) \u2500", done.out, re.MULTILINE)
    assert titles == ["Options", "Start", "Grants", "Operate"], "broker/cli/main.py: name the command in _PANELS"


async def test_version(home: Home) -> None:
    """The version is one line."""
    done = await home("--version")
    assert done.code == 0
    assert re.fullmatch(r"token-broker \d+\.\d+\.\d+\S*\n", done.out)


WRONG_USE = [
    ("nope",),
    ("token",),
    ("status", "--nope"),
    ("token", "a", "--format", "x"),
    ("retry",),
    ("status", "--url", "x"),
    ("retry", "a", "--provider", "b"),
    ("token", "a", "--min-ttl", "-1"),
    ("caller", "new", "a b"),
    ("caller", "new", "a", "--read", "x y"),
]


async def test_usage(home: Home) -> None:
    """What is no command line is exit 2, with the command whose help to read."""
    for done in await home.each(WRONG_USE):
        assert (done.code, done.out) == (2, "")
        assert "Usage: token-broker" in done.err


async def test_sealing_key(home: Home) -> None:
    """`keys new` prints one line and nothing else on standard output: a key. With `--to` a new file holds it."""
    done = await home("keys", "new")
    assert done.out.count("\n") == 1
    assert len(parse_sealing_keys(done.out)) == 1
    assert "mode 0600" in done.err
    made = home.directory / "sealing.keys"
    done = await home("keys", "new", "--to", "sealing.keys")
    assert (done.code, done.out, "The key is in sealing.keys" in done.err) == (0, "", True)
    assert (made.stat().st_mode & 0o777, len(parse_sealing_keys(made.read_text()))) == (0o600, 1)


async def test_no_file_is_replaced(home: Home) -> None:
    """A file or a link that is there, and a directory that is not: one line, exit 1, and all is as it was."""
    old, link = home.directory / "old", home.directory / "link"
    old.write_text("OLD")
    link.symlink_to("nowhere")
    commands = [("keys", "new", "--to", "old"), ("caller", "new", "wall", "--key-file", "old")]
    for done in await home.each(commands):
        words = "token-broker: old exists, and is not replaced: name another file, or move it away\n"
        assert (done.code, done.out, done.err) == (1, "", words)
    assert old.read_text() == "OLD"
    with pytest.raises(CannotCreate, match="exists, and is not replaced"):
        create_private(link, "KEY")
    with pytest.raises(CannotCreate, match=r"cannot be created \(No such file or directory\)"):
        create_private(home.directory / "no" / "key", "KEY")
    assert not (home.directory / "nowhere").exists()


async def test_caller(home: Home) -> None:
    """Standard output is the key alone; standard error is TOML that may be appended to the settings, with its hash."""
    for name in ("wall", "a.b"):
        done = await home("caller", "new", name, "--read", "acme-*", "--read", "x", "--admin", "*")
        (key,) = done.out.splitlines()
        (caller,) = tomllib.loads(done.err)["callers"].items()
        assert caller == (name, {"key_sha256": key_digest(key), "read": ["acme-*", "x"], "refresh": [], "admin": ["*"]})
        assert len(key) > 40
        assert key not in done.err
        assert "#" not in done.err, "what is appended to a file is no advice"
    made = home.directory / "wall.key"
    done = await home("caller", "new", "wall", "--key-file", "wall.key")
    assert (done.out, made.stat().st_mode & 0o777) == ("", 0o600)
    assert tomllib.loads(done.err)["callers"]["wall"]["key_sha256"] == key_digest(made.read_text().strip())


@pytest.mark.parametrize("kind", ["cameramanager", "een-v3", "oidc", "oauth2"])
async def test_init(home: Home, kind: str) -> None:
    """What `init` prints is read by the next command: it gets as far as finding no broker."""
    done = await home("init", "--provider", kind)
    assert done.err == ""
    made = done.out.replace("https://\u2026", "https://acme.test").replace(":8080", ":1")
    home.settings.write_text(made)
    done = await home("status")
    assert (done.code, "client_id: is a placeholder" in done.err) == (78, True)
    home.settings.write_text(made.replace('client_id = "\u2026"', 'client_id = "an-id"'))
    done = await home("status")
    assert done.code == 75, done


async def test_no_settings(home: Home) -> None:
    """Without any settings a command says the three ways to some: exit 78."""
    home.settings.unlink()
    for command in (("run",), ("status",), ("token", "x")):
        done = await home(*command)
        assert (done.code, done.out) == (78, "")
        (line,) = lines(done.err)
        for word in ("./broker.toml", "token-broker init", "--config", "token-broker demo"):
            assert word in line


async def test_wrong_settings(home: Home) -> None:
    """Every mistake in the settings is one line on standard error, for `run` and for the others: exit 78."""
    home.write('[htpp]\nlisten = 5\n[log]\nlevel = "loud"\n[callers.wall]\nkey_sha256 = "SECRET"\n')
    for command in (("run",), ("status",), ("health",)):
        done = await home(*command)
        assert (done.code, done.out) == (78, ""), done
        printed = lines(done.err)
        if command != ("run",):  # a broker that runs can still be reached
            assert "--url" in printed[-1]
            printed = printed[:-1]
        assert len(printed) == 3
        assert all(re.match(r"token-broker: broker\.toml:\d+: [a-z0-9_.]+: ", line) for line in printed), printed
        assert "SECRET" not in done.err


async def test_variables_of_the_commands(home: Home) -> None:
    """TOKEN_BROKER_CONFIG and _URL are the commands' options; a variable that is no setting is found by `run`."""
    moved = home.settings.rename(home.directory / "moved.toml")
    done = await home("status", env={"TOKEN_BROKER_CONFIG": str(moved), "TOKEN_BROKER_URL": "http://127.0.0.1:1"})
    assert done.code == 75
    assert "http://127.0.0.1:1" in done.err
    done = await home("run", env={"TOKEN_BROKER_REDIS_URL": "redis://x", "TOKEN_BROKER_CONFIG": str(moved)})
    assert done.code == 78
    assert "did you mean TOKEN_BROKER_REDIS__URL?" in done.err


async def test_c_locale(home: Home) -> None:
    """In a C locale, without Python's own way out of it, everything prints, umlauts and all."""
    for command in (("init",), ("--help",), ("caller", "new", "wall"), ("health",), ("token", "M\u00fcnchen")):
        process = subprocess.Popen(
            [COMMAND, *command],
            cwd=home.directory,
            env={"PATH": os.environ["PATH"], **C_LOCALE},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        home.started.append(process)
        done = await home.ended(process)
        assert "Traceback" not in done.err, command
        assert "UnicodeEncodeError" not in done.err


async def test_nobody_reads_on(home: Home) -> None:
    """A reader that has seen enough (`| head -1`) is no error worth a traceback."""
    for command in ("init", "--help", "keys --help"):
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"{COMMAND} {command} | head -1 >/dev/null"],
            cwd=home.directory,
            env=home.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        home.started.append(process)
        done = await home.ended(process)
        assert done.err == "", command
    read, write = os.pipe()
    os.close(read)
    process = home.start("init", stdout=write)
    os.close(write)
    done = await home.ended(process)
    assert done.err == ""
