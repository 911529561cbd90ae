"""`token-broker move` as people run it: from the embedded store of a running broker to a Redis of one's own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from broker.check.store import check_store, why_too_old
from broker.cli import main
from broker.settings import Redis
from broker.store.facts import StoreFacts
from broker.store.redis.moved import left
from tests.cli.conftest import Home, line
from tests.redis_server import client
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.redis_server import RedisServer


async def test_from_embedded_to_a_redis_of_ones_own(home: Home, own_redis: RedisServer) -> None:
    """Moved while the broker runs, which says what to do; restarted with the new URL it serves and refreshes."""
    home.write("[refresh]\nrequest_timeout = '1s'\nlease = '8s'\nmin_interval = '0s'")
    process = await home.run()
    given = "".join(line(home, f"g{n}") for n in range(5)).encode()
    assert (await home("import", "-", stdin=given)).code == 0
    assert (await home("token", "g1")).code == 0

    moved = await home("move", "--to", own_redis.url)
    assert (moved.code, moved.err.splitlines()[-1]) == (0, "comparing …")
    assert moved.out.startswith("Moved 5 grants (")
    assert f'Now set redis.url = "{own_redis.url}"' in moved.out
    key = home.data / "sealing.keys"
    assert f'and sealing.keys_file = "{key}"' in moved.out, moved.out
    assert "The store at embedded: is marked as left" in moved.out
    await until(lambda: _says(home, f"this store was left: token-broker move brought it to {own_redis.url}"))
    again = await home("move", "--to", own_redis.url, "--json")
    assert (again.code, json.loads(again.out)["status"]) == (0, "already_moved")
    await home.stop(process)

    home.write(f'[sealing]\nkeys_file = "{key}"', redis=f'url = "{own_redis.url}"')
    await home.run()
    assert (await home("token", "g1")).code == 0
    async with client(own_redis.port) as new:
        assert await new.zcard("broker:{0}:due:acme") == 5
    assert home.sandbox.rotating.reuse == 0


async def _says(home: Home, words: str) -> bool:
    return words in (await home.get("/healthz"))[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "redis://:hunter2-hunter2@127.0.0.1:1/0"], "--to: has a password, which every user of this host can"),
        (["--to", "rediss://127.0.0.1:1/0?ssl_password=hunter2-hunter2"], "--to: has a password"),
        (["--to", "embedded:"], "--to: embedded: is the store of one broker: name a Redis server"),
        (["--to", "http://127.0.0.1:1"], "--to: must be redis://HOST"),
        (
            ["--to", "redis://127.0.0.1:1/0", "--to-sentinel-password-file", "/none"],
            "--to-sentinel-password-file: needs Sentinels in --to",
        ),
        (
            ["--to", "redis+sentinel://127.0.0.1:1/main", "--to-sentinel-username", "jane"],
            "--to-sentinel-username: needs --to-sentinel-password-file",
        ),
        (
            ["--to", "redis+sentinel://127.0.0.1:1/main", "--to-sentinel-password-file", "/none"],
            "--to-sentinel-password-file: /none cannot be read",
        ),
        (["--to", "redis://127.0.0.1:1/0"], "redis.url: embedded: has no store in"),
        (["--to", "redis://127.0.0.1:1/0", "--to-password-file", "/none"], "--to-password-file: /none cannot be read"),
    ],
)
def test_what_is_refused(arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each wrong target is named with its cure, no password is printed, and nothing is started."""
    settings = tmp_path / "broker.toml"
    settings.write_text(f'data_dir = "{tmp_path}/data"\n[redis]\nurl = "embedded:"\n')
    with pytest.raises(SystemExit) as ended:
        main(["move", "--config", str(settings), *arguments])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (78, "")
    assert words in printed.err
    assert "hunter2" not in printed.err
    assert not (tmp_path / "data" / "store").exists()


def test_check_names_a_store_that_was_left() -> None:
    """`check --online` says where the store is, instead of what to restore."""
    facts = StoreFacts(server="valkey 9", store=left("redis://there:6379/0"), unknown_schema="has schema 'left': no")
    found = [str(finding) for finding in check_store(facts, Redis(url="redis://here:6379/0"), "0123456789abcdef")]
    wanted = "failed: redis: this store was left: token-broker move brought it to redis://there:6379/0 ("
    assert len([each for each in found if each.startswith(wanted)]) == 1
    assert not [each for each in found if "schema" in each or "this broker knows" in each]


async def test_a_target_that_wants_a_password(home: Home, own_redis: RedisServer) -> None:
    """Its password comes from a file, a wrong one changes nothing, and nobody prints it."""
    process = await home.run()
    assert (await home("import", "-", stdin=line(home, "g1").encode())).code == 0
    await own_redis.ask("CONFIG", "SET", "requirepass", "hunter2-hunter2")
    file = home.directory / "password"
    file.write_text("wrong\n")
    refused = await home("move", "--to", own_redis.url, "--to-password-file", str(file))
    assert (refused.code, refused.out) == (75, "")
    assert "denied access" in refused.err
    assert "the file of --to-password-file" in refused.err
    file.write_text("hunter2-hunter2\n")
    moved = await home("move", "--to", own_redis.url, "--to-password-file", str(file), "--json")
    assert moved.code == 0, moved.err
    printed = json.loads(moved.out)
    assert (printed["status"], printed["grants"], printed["from"]) == ("moved", 1, "embedded:")
    assert "hunter2" not in moved.out + moved.err
    await home.stop(process)


@pytest.mark.parametrize(
    ("server", "version", "valkey", "works"),
    [
        ("redis 6.2.7", (6, 2, 7), False, False),
        ("redis 7.0.15", (7, 0, 15), False, True),
        ("valkey 7.2.5", (7, 2, 4), True, True),
        ("", None, False, True),
    ],
)
def test_a_server_too_old_for_scripts(
    server: str, version: tuple[int, ...] | None, *, valkey: bool, works: bool
) -> None:
    """Redis before 7.0 runs none of the broker's scripts."""
    why = why_too_old(StoreFacts(server=server, version=version, valkey=valkey))
    assert (why is None) == works
    assert why is None or "redis 6.2.7 is too old for the broker's scripts: use Redis 7.2 or Valkey" in why
