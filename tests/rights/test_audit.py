"""The audit stream: every event with who, whence and which request; never a token; and what happens when it fails."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from broker.errors import InvalidSettings
from broker.process import audit_file, audit_room
from broker.process.audit_file import MAX_LINES, AuditFile, require_usable
from broker.sandbox import Sandbox
from broker.settings import Audit
from tests.redis_server import RedisServer
from tests.regressions.process import broker_process
from tests.rights.conftest import CALLERS, StartRights, as_, counted, lines, with_keys
from tests.rights.full_disk import FullDisk
from tests.steps import log_in
from tests.waiting import until


@pytest.fixture
def path(audit_file: Path) -> Path:
    """Return where the stream goes."""
    return audit_file


async def test_every_event(start_rights: StartRights, sandbox: Sandbox, path: Path) -> None:
    """Each act is one line with caller, peer, grant and request; no token, key or code stands in any."""
    async with start_rights(CALLERS, audit={"file": str(path)}, refresh={"min_interval": "0s"}) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        token = await broker.token("g1")
        etag = f'"{token["generation"]}"'
        assert (await broker.ask("GET", "/v1/grants/g1/token", headers={"If-None-Match": etag}))[0] == 304
        await broker.ask("GET", "/v1/grants/g1/authorization", headers=as_("read", **{"X-Request-Id": "req-1"}))
        form = {"grant_type": "client_credentials", "scope": "grant:g1"}
        await broker.ask("POST", "/oauth2/token", headers=as_("all"), data=form)
        await broker.ask("GET", "/v1/grants/g1/token", headers={"Accept": "text/plain"})
        await broker.ask("POST", "/v1/grants/g1/refresh", headers={"If-Match": etag})
        await broker.ask("POST", "/v1/grants/g1/retry", headers=as_("admin"))
        await broker.ask("PUT", "/v1/grants/g1", json={"owner": "Ada"}, headers=as_("admin"))
        await broker.ask("POST", "/v1/providers/acme/retry", headers=as_("all"))
        line = {"grant_id": "g3", "provider": "acme", "refresh_token": "token-of-g3-0123456789"}
        broker.secrets.add(line["refresh_token"])
        await broker.ask("POST", "/v1/import", json=line)
        await log_in(broker, "g2", "een")
        await broker.ask("DELETE", "/v1/grants/g2", headers=as_("all"))
        page = {"X-Broker-Page": "1", "Sec-Fetch-Site": "same-origin"}
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            await browser.post(f"{broker.url}/session", json={"key": broker.admin_key}, headers=page)
            await browser.post(f"{broker.url}/session/end", headers=page)
        await broker.ask("POST", "/v1/sealing/reseal")
        await broker.ask("POST", "/v1/notify/test")
        await broker.ask("GET", "/v1/grants/g1/token", headers=as_("nobody"))
        secrets = sandbox.secrets() | broker.secrets | {broker.admin_key}
    refreshes = [event for event in lines(path) if event["did"] == "grant.refreshed"]
    assert {(event["grant_id"], event["provider"]) for event in refreshes} >= {("g1", "acme")}
    assert token["generation"] in {event["generation"] for event in refreshes}
    *events, refused = [event for event in lines(path) if event["did"] != "grant.refreshed"]
    assert [(event.get("caller"), event["did"], event.get("grant_id")) for event in events] == [
        ("admin", "grant.imported", "g1"),
        ("admin", "token.read", "g1"),
        ("admin", "token.read", "g1"),
        ("read", "token.read", "g1"),
        ("all", "token.read", "g1"),
        ("admin", "token.read", "g1"),
        ("admin", "refresh.reported", "g1"),
        ("admin", "token.read", "g1"),
        ("admin", "grant.retried", "g1"),
        ("admin", "grant.annotated", "g1"),
        ("all", "provider.retried", None),
        ("admin", "grant.imported", "g3"),
        ("admin", "login.started", "g2"),
        (None, "login.completed", "g2"),
        ("all", "grant.deleted", "g2"),
        ("admin", "session.begun", None),
        ("admin", "session.ended", None),
        ("admin", "sealing.resealing", None),
        ("admin", "sealing.resealed", None),
        ("admin", "notices.tested", None),
    ]
    assert (refused["reason"], refused["caller"], refused["grant_id"]) == ("unknown_key", "unknown", "g1")
    assert {event["peer"] for event in events} == {"127.0.0.1"}
    assert events[2]["generation"] == token["generation"]
    assert events[3]["request_id"] == "req-1"
    assert all(event["at"].endswith("Z") for event in events)
    assert len({event["request_id"] for event in events}) > len(events) - 4, "a report and its answer are one request"
    text = path.read_text()
    assert not [secret[:6] for secret in secrets if len(secret) > 5 and secret in text]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("audited", [False, True])
async def test_request_ids(start_rights: StartRights, sandbox: Sandbox, path: Path, *, audited: bool) -> None:
    """A valid id comes back on every kind of response; another is replaced; none is asked of a client."""
    async with start_rights(CALLERS, audit={"file": str(path)} if audited else {}) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        token = await broker.token("g1")
        for method, at, headers in (
            ("GET", "/v1/grants/g1/token", {}),
            ("GET", "/v1/grants/g1/token", {"Accept": "text/plain"}),
            ("GET", "/v1/grants/g1/token", {"If-None-Match": f'"{token["generation"]}"'}),
            ("GET", "/v1/grants/g1/token", {"X-Broker-Key": "wrong"}),
            ("GET", "/v1/grants/g1/authorization", {}),
            ("GET", "/v1/grants", {}),
            ("POST", "/v1/import", {}),
            ("GET", "/nowhere", {}),
            ("GET", "/healthz", {}),
            ("GET", "/callback?state=x", {}),
            ("GET", "/v1/grants", {"Host": "evil.example"}),
        ):
            for sent, good in (("a-1.b:c/d+e=f@g~h", True), ('a"b', False), ("x" * 129, False), ("a b", False)):
                _, _, got = await broker.ask(method, at, headers={**headers, "X-Request-Id": sent})
                assert (got["X-Request-Id"] == sent) is good, (method, at, sent)
                assert len(got.getall("X-Request-Id")) == 1
        _, body, got = await broker.ask("GET", "/v1/grants/g1/token")
        assert body["generation"] == token["generation"]
        assert ("X-Request-Id" in got) is audited


async def test_a_change_of_rights(tmp_path: Path, shared_redis: RedisServer, redis: Redis) -> None:
    """SIGHUP opens the file anew, and names the callers that are new, that have other rights, and that are gone."""
    path = tmp_path / "audit.jsonl"
    environment = {"TOKEN_BROKER_AUDIT__FILE": str(path)}
    async with broker_process(tmp_path, shared_redis.url, {}, env=environment) as broker:
        settings = tmp_path / "broker.toml"
        before = settings.read_text()

        async def reload(callers: dict[str, dict[str, Any]]) -> None:
            tables = [
                f"[callers.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in caller.items())
                for name, caller in with_keys(callers).items()
            ]
            settings.write_text("\n".join([before, *tables]))
            await broker.hang_up()

        await reload({"gone": {"read": ["a"]}, "kept": {"read": ["a"]}, "other": {"read": ["a"]}})
        await until(path.read_text)
        path.rename(tmp_path / "moved")
        await reload({"kept": {"read": ["a"]}, "other": {"read": ["a"], "admin": ["a"]}, "new": {}})
        await until(lambda: path.exists() and path.read_text())
        await broker.check_secrets()
    (first,), (second,) = lines(tmp_path / "moved"), lines(path)
    assert (first["did"], sorted(first["added"])) == ("rights.changed", ["gone", "kept", "other"])
    assert (second["added"], second["changed"], second["removed"]) == (["new"], ["other"], ["gone"])


async def test_a_broker_that_cannot_audit_does_not_start(tmp_path: Path) -> None:
    """It exits with 78, and names file, line, key and cure."""
    file = tmp_path / "broker.toml"
    file.write_text(f'data_dir = "{tmp_path}"\n[redis]\nurl = "embedded:"\n[audit]\nfile = "{tmp_path}/none/audit"\n')
    program = [sys.executable, "-m", "broker", "run", "--config", str(file)]
    process = await asyncio.create_subprocess_exec(*program, stderr=asyncio.subprocess.PIPE)
    _, text = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 78
    assert f"{file}:5: audit.file: {tmp_path}/none/audit cannot be opened for appending" in " ".join(
        text.decode().split()
    )


async def test_a_full_disk(
    start_rights: StartRights, sandbox: Sandbox, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default the broker serves, says so in health and metrics, and writes what waited once there is room."""
    disk = FullDisk(monkeypatch, path)
    async with start_rights(CALLERS, audit={"file": str(path)}) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        disk.fill()
        await broker.token("g1")
        await until(lambda: broker.events("audit.failed"))
        await broker.token("g1")
        check = (await broker.get("/healthz"))["checks"]["audit"]
        assert (check["status"], "No space left" in check["detail"]) == ("degraded", True)
        assert await counted(broker, "token_broker_audit_failing") == 1
        disk.make_room()
        await until(lambda: broker.events("audit.recovered"))
        assert (await broker.get("/healthz"))["checks"]["audit"]["status"] == "ok"
        assert await counted(broker, "token_broker_audit_failing") == 0
        assert await counted(broker, "token_broker_audit_lost_total") == 0
    acts = [event["did"] for event in lines(path) if event["did"] != "grant.refreshed"]
    assert acts == ["grant.imported", "token.read", "token.read", "token.read"]


def written(path: Path, count: int, **settings: Any) -> AuditFile:
    """Write *count* reads to a new stream."""
    audit = AuditFile(Audit.model_validate({"file": str(path), **settings}))
    for number in range(count):
        audit.read("svc", "127.0.0.1", f"g{number}", 1_700_000_000_000, "0123456789abcdef")
    return audit


@pytest.mark.parametrize("on_failure", ["serve", "refuse"])
async def test_rotation(path: Path, on_failure: str) -> None:
    """Files of at most max_size, newest first; no line is lost or split, the oldest go, and reserved room is freed."""
    total = 2000

    def write() -> None:
        audit = AuditFile(
            Audit.model_validate({"file": str(path), "max_size": 20_000, "keep": 3, "on_failure": on_failure})
        )
        for number in range(total):
            audit.read("svc", "127.0.0.1", f"g{number}", 1_700_000_000_000, "0123456789abcdef")
            if not number % 50:
                assert audit.drain()
        audit.close()

    await asyncio.to_thread(write)
    kept = [path, *(path.with_name(f"{path.name}.{number}") for number in (1, 2, 3))]
    assert sorted(path.parent.glob("audit.jsonl*")) == sorted(kept)
    assert all(file.stat().st_size <= 20_000 for file in kept)
    assert all(file.stat().st_blocks * 512 < audit_room.STEP for file in kept)
    numbers = [int(event["grant_id"][1:]) for file in reversed(kept) for event in lines(file)]
    assert numbers == list(range(numbers[0], total))


async def test_a_rotation_that_cannot_open_a_file_loses_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a new file cannot be opened, the old ones keep their places, however often it is tried."""
    monkeypatch.setattr(audit_file, "_RETRY", 0.001)
    tries, opened = 0, audit_file._open_file

    def refused(file: Path) -> tuple[int, int]:
        nonlocal tries
        tries += 1
        if tries < 5:
            raise OSError(errno.EMFILE, "")
        return opened(file)

    def write() -> None:
        audit = written(path, 100, max_size=20_000, keep=3)
        assert audit.drain()
        old = path.read_text()
        path.with_name(f"{path.name}.1").write_text("older")
        monkeypatch.setattr(audit_file, "_open_file", refused)
        for number in range(200):
            audit.read("svc", "127.0.0.1", f"late{number}", 1, "x")
            if not number % 10:
                assert audit.drain(20)
        audit.close()
        assert tries >= 5, "the rotation was tried again"
        kept = [path.with_name(f"{path.name}.{number}") for number in (2, 1)]
        assert kept[0].read_text() == "older"
        assert kept[1].read_text().startswith(old)
        late = [event["grant_id"] for file in (kept[1], path) if file.exists() for event in lines(file)][100:]
        assert late == [f"late{number}" for number in range(200)]

    await asyncio.to_thread(write)


async def test_reopening(path: Path) -> None:
    """After SIGHUP the lines go to a new file: what moved the old one away has all that came before."""
    moved = path.with_name("moved")

    def write() -> None:
        audit = written(path, 10)
        assert audit.drain()
        path.rename(moved)
        audit.read("svc", "unix", "late", 1, "x")
        assert audit.drain()
        audit.reopen()
        audit.read("svc", "unix", "new", 1, "x")
        audit.close()

    await asyncio.to_thread(write)
    assert [event["grant_id"] for event in lines(moved)][-1] == "late"
    assert [event["grant_id"] for event in lines(path)] == ["new"]


async def test_the_last_lines(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written right before the end is in the file, also where others came while the thread wrote."""
    first, second, goes_on = threading.Event(), threading.Event(), threading.Event()
    system_write = os.write

    def slow(descriptor: int, data: bytes) -> int:
        count = system_write(descriptor, data)
        if Path(f"/proc/self/fd/{descriptor}").readlink() == path:
            (second if first.is_set() else first).set()
            goes_on.wait(20)
        return count

    monkeypatch.setattr(os, "write", slow)

    def write() -> None:
        audit = written(path, 1)
        assert first.wait(20)
        audit.write("while it writes")
        goes_on.set()
        assert second.wait(20)
        time.sleep(0.005)  # now the thread waits for lines to gather
        audit.write("last")
        audit.close()

    await asyncio.to_thread(write)
    assert [event["did"] for event in lines(path)] == ["token.read", "while it writes", "last"]


async def test_what_finds_no_room_is_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines wait in bounds; what is over is lost, counted, and said in the stream itself."""
    disk, lost = FullDisk(monkeypatch, path), list[int]()

    def write() -> None:
        audit = AuditFile(Audit(file=str(path)), lost.append)
        disk.fill()
        for _ in range(MAX_LINES + 2000):
            audit.write("x")
        disk.make_room()
        assert audit.drain(20)
        audit.close()

    await asyncio.to_thread(write)
    events = lines(path)
    assert sum(lost) > 0
    assert sum(event.get("lines", 1) for event in events) == MAX_LINES + 2000
    assert [event["lines"] for event in events if event["did"] == "audit.lost"] == [sum(lost)]


def test_a_file_that_cannot_be_opened(path: Path) -> None:
    """Each kind has its cure: a folder that is missing, a directory, a link, a FIFO without a reader."""
    os.mkfifo(path.with_name("fifo"))
    path.with_name("link").symlink_to(path)
    for name, words in (
        ("missing/audit.jsonl", "create its folder"),
        (".", "cannot be opened"),
        ("link", "symbolic link"),
        ("fifo", "no regular file"),
    ):
        settings = Audit(file=str(path.parent / name))
        for use in (require_usable, AuditFile):
            with pytest.raises(InvalidSettings, match=words) as caught:
                use(settings)
            assert str(caught.value).startswith("audit.file: ")
    require_usable(Audit(file=str(path)))
    require_usable(Audit(file="stdout"))
    require_usable(Audit())
