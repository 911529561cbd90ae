"""What cannot be audited does not happen where the settings say so: a full disk is found before, not by a line."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.errors import AuditUnavailable
from broker.process import audit_room
from broker.process.audit_file import AuditFile
from broker.process.data_dir import sealing_keys
from broker.sandbox import Sandbox
from broker.secret import Sealer
from broker.settings import Audit
from broker.store import open_store
from tests.chaos.disks import SmallDisk
from tests.conftest import RunningBroker
from tests.rights.conftest import CALLERS, StartRights, counted, lines
from tests.rights.full_disk import FullDisk
from tests.waiting import until


@pytest.mark.parametrize("is_real", [False, True])
async def test_a_full_disk_that_refuses(
    start_rights: StartRights, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_real: bool
) -> None:
    """With on_failure = "refuse" nothing is read, changed or begun without its line, not even once; it ends by itself.

    Some reads go on after the disk is full: room for their lines was reserved before.
    """
    monkeypatch.setattr(audit_room, "STEP", 32_768)
    monkeypatch.setattr(audit_room, "SPARE", 8_192)
    with a_disk(monkeypatch, tmp_path, is_real=is_real) as (disk, path):
        async with start_rights(CALLERS, audit={"file": str(path), "on_failure": "refuse"}) as broker:
            await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
            _, started, _ = await broker.ask("POST", "/v1/grants/g2/login", json={"provider": "een"})
            await asyncio.to_thread(disk.fill)
            served = await read_until_refused(broker)
            assert len(served) > 10
            await until(lambda: served <= {event.get("request_id") for event in lines(path)})
            await assert_refused(broker, started["login_url"])
            await assert_said(broker)
            assert await counted(broker, "token_broker_audit_failing") == 1
            disk.make_room()

            async def serves() -> bool:
                return (await broker.ask("GET", "/v1/grants/g1/token", headers={"X-Request-Id": "after"}))[0] == 200

            await until(serves)
            assert (await broker.ask("GET", "/v1/grants/g9"))[0] == 404
        reads = [event["request_id"] for event in lines(path) if event["did"] == "token.read"]
        assert "refused" not in reads
        assert reads[-1] == "after"


@contextlib.contextmanager
def a_disk(patch: pytest.MonkeyPatch, folder: Path, *, is_real: bool) -> Iterator[tuple[Any, Path]]:
    """Return a disk that can be filled, and a file on it."""
    if not is_real:
        path = folder / "audit.jsonl"
        yield FullDisk(patch, path), path
        return
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    disk = SmallDisk(folder / "small", 512)
    try:
        yield disk, disk.outside / "audit.jsonl"
    finally:
        disk.close()


async def read_until_refused(broker: RunningBroker) -> set[str]:
    """Read tokens until a read is refused; return the ids of those that were served."""
    served = set[str]()
    for number in range(5000):
        headers = {"X-Request-Id": f"read-{number}"}
        status, body, _ = await broker.ask("GET", "/v1/grants/g1/token", headers=headers)
        if status != 200:
            assert (status, body["error"]) == (503, "audit_unavailable")
            return served
        served.add(f"read-{number}")
    raise AssertionError("it served on and on")


async def assert_refused(broker: RunningBroker, login_url: str) -> None:
    """Every kind of request that is audited gets 503, with how to go on."""
    form = {"grant_type": "client_credentials", "scope": "grant:g1"}
    for method, at, options in (
        ("GET", "/v1/grants/g1/token", {}),
        ("GET", "/v1/grants/g1/authorization", {}),
        ("POST", "/oauth2/token", {"data": form}),
        ("POST", "/v1/grants/g1/refresh", {}),
        ("GET", "/v1/grants", {}),
        ("PUT", "/v1/grants/g9", {"json": {"provider": "acme", "refresh_token": "x" * 30}}),
        ("DELETE", "/v1/grants/g1", {}),
        ("POST", "/v1/grants/g2/login", {"json": {"provider": "een"}}),
        ("POST", "/v1/reload", {}),
        ("GET", login_url.removeprefix(broker.url), {}),
        ("GET", "/callback?state=x&code=y", {}),
    ):
        status, body, headers = await broker.ask(method, at, headers={"X-Request-Id": "refused"}, **options)
        assert status == 503, (method, at, body)
        if at.startswith(("/v1", "/oauth2")):
            assert (body["error"], headers["Retry-After"]) == ("audit_unavailable", "5")
    line = {"grant_id": "g9", "provider": "acme", "refresh_token": "x" * 30}
    assert (await broker.ask("POST", "/v1/import", json=line))[0] == 503


async def assert_said(broker: RunningBroker) -> None:
    """The verdict can still be read, and says that callers get nothing, though each grant has a valid token."""
    verdict = await broker.get("/v1/verdict")
    assert (verdict["status"], verdict["causes"][0]["kind"]) == ("failing", "audit")

    async def is_public() -> bool:
        status, health, _ = await broker.ask("GET", "/healthz")
        return status == 200 and "callers get 503" in health["verdict"]["summary"]

    await until(is_public)


async def test_a_wait_that_ends_on_a_full_disk(
    start_rights: StartRights, sandbox: Sandbox, audit_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long poll that began before the disk was full hands out nothing after that."""
    monkeypatch.setattr(audit_room, "STEP", 32_768)
    monkeypatch.setattr(audit_room, "SPARE", 8_192)
    disk = FullDisk(monkeypatch, audit_file)
    async with start_rights(CALLERS, audit={"file": str(audit_file), "on_failure": "refuse"}) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        headers = {"If-None-Match": f'"{(await broker.token("g1"))["generation"]}"', "Prefer": "wait=50"}
        waiting = asyncio.create_task(broker.ask("GET", "/v1/grants/g1/token", headers=headers))

        async def waits() -> bool:
            return await counted(broker, "token_broker_subscribers") == 1

        await until(waits)
        disk.fill()
        await read_until_refused(broker)
        settings = broker.settings
        async with open_store(settings.redis, Sealer(sealing_keys(settings)), data_dir=settings.data_dir) as store:
            await store.identify()
            await store.schedule.retry("g1", "acme")
        status, body, _ = await waiting
        assert (status, body["error"]) == (503, "audit_unavailable")


async def test_what_was_begun_has_room(audit_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests leave room for the lines of what others have begun, and wait for no disk: it may be slow or full."""
    monkeypatch.setattr(audit_room, "STEP", 32_768)
    monkeypatch.setattr(audit_room, "SPARE", 8_192)
    disk = FullDisk(monkeypatch, audit_file)
    audit = AuditFile(Audit.model_validate({"file": str(audit_file), "on_failure": "refuse"}))
    disk.fill()
    reads = itertools.count()

    def read_on() -> None:
        while next(reads) < 5000:
            audit.read("svc", "127.0.0.1", "g1", 1_700_000_000_000, "0123456789abcdef")

    with pytest.raises(AuditUnavailable):
        read_on()
    served = next(reads) - 1
    for _ in range(20):
        audit.write("grant.imported", caller="svc")
    await until(lambda: len(lines(audit_file)) == served + 20)
    await until(lambda: audit.fault)
    disk.make_room()
    await until(lambda: not audit.fault)
    audit.require()
    await asyncio.to_thread(audit.close)
