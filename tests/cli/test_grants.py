"""A grant's life by commands: log in, read, retry, log out; and the exit codes scripts act on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from broker import errors
from broker.cli import login
from broker.cli.http import Broker, broker_at
from broker.sandbox import BrowserError, walk_login, walk_to_redirect
from tests.cli.conftest import C_LOCALE, COMMAND, Done, Home, line, lines, read_until
from tests.waiting import until


async def _printed_url(process: subprocess.Popen[bytes]) -> str:
    """Return the URL that a command prints, waiting for it."""
    return (await read_until(process, "http"))[-1].strip()


async def test_login(home: Home) -> None:
    """`login` prints a link, waits while a person follows it, and says what it got; `token` then has five forms."""
    await home.run()
    waiting = home.start("login", "front-door", "--provider", "cameramanager", "--config", str(home.settings))
    assert "Logged in" in await walk_login(await _printed_url(waiting))
    done = await home.ended(waiting)
    assert done.code == 0, done
    assert re.fullmatch(
        r"Logged in: the broker keeps grant front-door at cameramanager alive; "
        r"its access token lives 3600 s, scope \S+\.\n"
        r"Next:\n"
        r"  token-broker token front-door --config \S+ +# prints the access token\n"
        r"  token-broker status --config \S+ +# shows what works and what fails\n",
        done.out,
    )
    forms = {
        form: await home("token", "front-door", "--format", form) for form in ("text", "json", "header", "env", "k8s")
    }
    assert all(
        (done.code, done.err, done.out.count("\n")) == (0, "", 2 if form == "env" else 1)
        for form, done in forms.items()
    )
    text = forms["text"].out.strip()
    assert home.sandbox.cameramanager.is_live_access(text)
    answer = json.loads(forms["json"].out)
    assert answer["access_token"] == text
    assert "refresh_token" not in answer
    assert forms["header"].out == f"Authorization: Bearer {text}\n"
    script = forms["env"].out + 'printf "%s %s" "$ACCESS_TOKEN" "$ACCESS_TOKEN_EXPIRES_AT"'
    sourced = (await asyncio.to_thread(subprocess.check_output, ["/bin/sh", "-c", script])).decode()
    assert sourced == f"{text} {answer['expires_at']}"
    credential = json.loads(forms["k8s"].out)
    assert credential["kind"] == "ExecCredential"
    assert credential["status"]["token"] == text
    done = await home("logout", "front-door")
    assert done.code == 0
    assert done.out.startswith("Grant front-door: ")
    assert not home.sandbox.cameramanager.is_live_access(text)
    assert (await home("token", "front-door")).code == 1


async def test_paste(home: Home) -> None:
    """`login --paste` takes the URL where a browser elsewhere ended; what is no such URL changes nothing."""
    await home.run()
    callback = home.url + "/callback"
    waiting = home.start("login", "g", "-p", "acme", "--paste")
    redirect = await walk_to_redirect(await _printed_url(waiting), callback)
    done = await home.ended(waiting, redirect.encode() + b"\n")
    assert done.code == 0, done
    assert "keeps grant g at acme alive" in done.out
    assert redirect not in done.out + done.err
    for pasted in (
        b"",
        b"\n",
        b"nonsense\n",
        b"http://x.test/\xff\xfe?code=1\n",
        f"{callback}?code=x&state=y\n".encode(),
    ):
        done = await home("login", "g", "-p", "acme", "--paste", stdin=pasted)
        assert done.code == 1, (pasted, done)
        assert len(lines(done.err)) == 1
    assert (await home("token", "g")).code == 0


async def test_another_account(home: Home) -> None:
    """A login of another account fails with both accounts; --replace-account replaces; status and explain say whose."""
    await home.run()

    async def log_in(user: str, *options: str) -> Done:
        waiting = home.start("login", "g", "-p", "acme", *options)
        with contextlib.suppress(BrowserError):
            await walk_login(await _printed_url(waiting), user=user)
        return await home.ended(waiting)

    done = await log_in("jane", "--owner", "Jane Doe", "--label", "front door")
    assert "account jane@example.com (jane)." in done.out
    done = await log_in("john")
    assert done.code == 1
    assert "account jane@example.com (jane), and this login is of account john@example.com (john)" in done.err
    assert "token-broker login g --provider acme --replace-account" in done.err
    assert len(lines(done.err)) == 1
    whose = "account jane@example.com (jane), owner Jane Doe, label front door"
    assert f"It is of {whose}.\n" in (await home("explain", "g")).out
    assert "jane@example.com" in (await home("status", "--all")).out
    assert "account john@example.com (john)." in (await log_in("john", "--replace-account")).out
    explained = json.loads((await home("explain", "g", "--json")).out)
    assert (explained["account"]["id"], explained["owner"]) == ("john", "Jane Doe")
    refused = await home("login", "g", "-p", "acme", "--owner", "a\nb")
    assert (refused.code, "control characters" in refused.err) == (1, True)


async def test_denied(home: Home) -> None:
    """A person who says no at the provider ends the command: exit 1, and the words for it."""
    await home.run()
    waiting = home.start("login", "g", "-p", "acme")
    with pytest.raises(BrowserError) as page:
        await walk_login(await _printed_url(waiting), consent="deny")
    assert "was not allowed" in page.value.text
    done = await home.ended(waiting)
    assert done.code == 1
    (line,) = lines(done.err)
    assert line == "token-broker: the login was not allowed ('access_denied'): nothing was changed"
    waiting = home.start("login", "g", "-p", "acme", "--paste")
    redirect = await walk_to_redirect(await _printed_url(waiting), home.url + "/callback", consent="deny")
    done = await home.ended(waiting, redirect.encode())
    assert done.code == 1
    assert "was not allowed" in done.err


async def test_login_outlives_a_restart(home: Home) -> None:
    """A broker that is started anew while somebody logs in: the link still works, and the command hears at once."""
    broker = await home.run()
    waiting = home.start("login", "g", "-p", "acme")
    url = await _printed_url(waiting)
    await home.stop(broker)
    await home.run()
    assert "Logged in" in await walk_login(url)
    began = time.monotonic()
    done = await home.ended(waiting)
    assert done.code == 0, done
    assert time.monotonic() - began < 4  # two seconds, on a machine with nothing else to do


@pytest.mark.parametrize("answer", ["nobody", "503"])
async def test_login_outlives_any_request_that_fails(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    """Once the link is printed, each request of the command may meet a broker that restarts, or whose Redis does."""
    await home.run()
    monkeypatch.setattr(login, "_POLL_INTERVAL", 0.01)
    ask = Broker.ask
    asked: list[str] = []

    async def fails_once(broker: Broker, method: str, path: str, **options: Any) -> tuple[int, Any]:
        asked.append(path)
        if asked[2:].count(path) != 1:  # the first two start the login
            return await ask(broker, method, path, **options)
        if answer == "503":
            return 503, {"error": "store_unavailable", "error_description": "Redis does not answer"}
        raise errors.TokenUnavailable("nobody answers")

    monkeypatch.setattr(Broker, "ask", fails_once)
    monkeypatch.setenv("TOKEN_BROKER_KEY", (home.data / "admin.key").read_text().strip())
    waiting = asyncio.create_task(_log_in(home.url))
    url = await until(lambda: re.search(r"http\S+", capsys.readouterr().out))
    assert "Logged in" in await walk_login(url[0])
    await asyncio.wait_for(waiting, 10)
    assert "keeps grant g at acme alive" in capsys.readouterr().out
    assert len(set(asked[2:])) == 2


async def _log_in(url: str) -> None:
    async with broker_at(None, url, None) as broker:
        await login.log_in_by_link(broker, "g", "acme")


async def test_dead_grant(home: Home) -> None:
    """A grant that the provider ended is exit 77 with the command that heals it; `retry` asks once more."""
    await home.run()
    pair = home.sandbox.rotating.issue()
    (home.directory / "one").write_text(
        json.dumps({"grant_id": "g", "provider": "acme", "refresh_token": pair.refresh_token}) + "\n"
    )
    home.sandbox.rotating.revoke_all()
    assert (await home("import", "one")).code == 0
    done = await home("token", "g")
    assert (done.code, done.out) == (77, "")
    assert "token-broker login g --provider acme" in done.err
    done = await home("status")
    assert (done.code, done.out.split(".")[0]) == (77, "The only grant has no valid token: log in again to g")
    assert re.search(r"^g +acme +needs a login ", done.out, re.MULTILINE)
    done = await home("retry", "g")
    assert (done.code, done.out) == (0, "Grant g is due: the broker sends one more token request.\n")
    done = await home("retry", "--provider", "acme")
    assert re.fullmatch(r"The broker sends requests to provider acme again, and retries \d parked grants\.\n", done.out)
    for arguments in (
        ("retry", "nope"),
        ("retry", "-p", "nope"),
        ("logout", "nope"),
        ("token", "nope"),
        ("token", "a b"),
        ("login", "g", "-p", "nope"),
        ("token", "g", "--min-ttl", "99999"),
    ):
        done = await home(*arguments)
        assert (done.code, done.out, len(lines(done.err))) in {(1, "", 1), (77, "", 1)}, (arguments, done)


async def test_keys(home: Home) -> None:
    """Which key a command speaks with: the admin's, a file's, the environment's; and what is said of a bad one."""
    await home.run()
    key = (home.data / "admin.key").read_text().strip()
    (home.directory / "my.key").write_text("\ufeff" + key + "\r\n", "utf-8")
    for arguments, env in (
        (("status", "--key-file", "my.key", "--url", home.url), {}),
        (("status", "--url", home.url + "/"), {"TOKEN_BROKER_KEY": key}),
        (("status",), {"TOKEN_BROKER_KEY_FILE": "my.key"}),
    ):
        assert (await home(*arguments, env=env)).code == 0
    (home.directory / "empty").write_text("")
    for file, words in (
        ("empty", "does not hold a key"),
        ("missing", "No such file"),
        ("broker.toml", "does not hold a key"),
        (".", "Is a directory"),
    ):
        done = await home("status", "--key-file", file)
        assert (done.code, len(lines(done.err))) == (1, 1)
        assert words in done.err
    (home.directory / "old.key").write_text("unknown")
    unknown: tuple[tuple[list[str], dict[str, str], str], ...] = (
        (["status"], {"TOKEN_BROKER_KEY": "unknown"}, "TOKEN_BROKER_KEY"),
        (["token", "g", "--key-file", "old.key"], {}, "old.key"),
    )
    for command, variables, where in unknown:
        done = await home(*command, env=variables)
        assert done.code == 1
        assert done.err.startswith(f"token-broker: the broker does not know the key in {where}: ")


async def test_unknown_grant(home: Home) -> None:
    """A command for a grant that is not there names it, and the command that lists the others."""
    await home.run()
    for command in ("token", "retry", "logout"):
        done = await home(command, "nope")
        assert (done.code, done.out) == (1, "")
        assert done.err == "token-broker: there is no grant nope: token-broker status lists them\n"


async def test_status(home: Home) -> None:
    """`health` and `status`, empty and with grants: for people, for machines, in a C locale, and cut short."""
    await home.run()
    assert (await home("health")).out == "ok\n"
    assert json.loads((await home("health", "--json")).out)["status"] == "ok"
    assert "no grants yet: token-broker login GRANT --provider P" in (await home("status")).out
    names = ["a-grant-with-a-long-name-that-must-not-be-cut-short", "g"]
    (home.directory / "two").write_text("".join(line(home, name) for name in names))
    assert (await home("import", "two")).out == "2 created\n"
    seen = json.loads((await home("status", "--json")).out)
    assert {grant["grant_id"] for grant in seen["grants"]} == set(names)
    assert {provider["provider"] for provider in seen["providers"]} == {"acme", "cameramanager", "een"}
    assert seen["health"]["status"] == "ok"
    await until(lambda: home.status("/v1/grants/g/token", 200))
    await until(lambda: home.status(f"/v1/grants/{names[0]}/token", 200))
    text = (await home("status")).out
    assert "2 alive, the next ends in " in text
    text = (await home("status", "--all")).out
    assert all(name in text for name in names)
    process = subprocess.Popen(
        [COMMAND, "status"],
        cwd=home.directory,
        env={"PATH": os.environ["PATH"], **C_LOCALE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    home.started.append(process)
    done = await home.ended(process)
    assert (done.code, done.err) == (0, "")
    read, write = os.pipe()
    process = home.start("status", stdout=write)
    os.close(write)
    os.close(read)
    assert (await home.ended(process)).err == ""


async def test_no_broker(home: Home) -> None:
    """No broker running: exit 75 and one line that says how to start one, for every command that needs one."""
    (home.directory / "one").write_text("{}\n")
    for arguments in (
        ("status",),
        ("token", "g"),
        ("login", "g", "-p", "acme"),
        ("logout", "g"),
        ("retry", "g"),
        ("import", "one"),
    ):
        done = await home(*arguments)
        assert (done.code, done.out) == (75, ""), arguments
        (line,) = lines(done.err)
        assert line == (
            f"token-broker: no broker answers at {home.url} (Connection refused): start it with `token-broker run`, or "
            "name it with --url"
        )
    done = await home("health")
    assert done.code == 1
    assert done.out.startswith("down\n  broker: no broker answers")
    assert json.loads((await home("health", "--json")).out)["status"] == "down"
    done = await home("status", "--url", home.sandbox.url)
    assert done.code == 75
    assert "is not token-broker" in done.err


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"no JSON", b"[" * 100_000, b'{"a":' * 100_000], ids=range(6))
async def test_what_answers_is_no_broker(home: Home, body: bytes) -> None:
    """Whatever else listens at that address, it is said in one line."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as other:
        port = other.sockets[0].getsockname()[1]
        done = await home("status", "--url", f"http://127.0.0.1:{port}")
    (line,) = lines(done.err)
    assert (done.code, done.out) == (75, "")
    assert "is not token-broker" in line


async def test_ctrl_c(home: Home) -> None:
    """Ctrl-C ends what waits, at once, without a traceback, with 130: login, --paste, status --watch, import -."""
    await home.run()
    waiting = [
        ("login", "g", "-p", "acme"),
        ("login", "g", "-p", "acme", "--paste"),
        ("status", "--watch"),
        ("import", "-"),
    ]
    for arguments in waiting:
        process = home.start(*arguments)
        if arguments[0] == "import":
            await until(partial(_reads_in_a_thread, process.pid))
        elif arguments[0] == "status":
            await read_until(process, "There are no grants yet.")
        else:
            await _printed_url(process)
        process.send_signal(signal.SIGINT)
        code = await asyncio.to_thread(process.wait, 5)
        assert process.stderr is not None
        printed = process.stderr.read().decode()
        assert code == 130, (arguments, printed)
        assert "Traceback" not in printed
        assert "Fatal" not in printed
        assert ("A link that was printed works" in printed) == (arguments == waiting[0])


def _reads_in_a_thread(pid: int) -> bool:
    """Whether a command has come so far that a thread of its own reads standard input."""
    status = Path(f"/proc/{pid}/status").read_text()
    return any(line.startswith("Threads:") and int(line.split()[1]) > 1 for line in status.splitlines())
