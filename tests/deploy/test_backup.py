"""The commands for backup and restore of deploy/README.md, run as written on the services of docker-compose.yml."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tests.deploy.composed import Stack
from tests.project.pages import blocks, page
from tests.waiting import until


def runbook() -> tuple[list[str], list[str]]:
    """Return the commands that back up, and those that restore."""
    section = page("deploy/README.md").split("## Backup and restore")[1].split("\n## ")[0]
    back_up, restore = (block.strip().splitlines() for block in blocks(section, "sh"))
    return back_up, restore


async def refreshed(stack: Stack, grant: str) -> str:
    """Have the grant refreshed; its new token."""
    before = await stack.served(grant)
    await stack["broker"].exec("token-broker", "retry", grant)

    async def newer() -> str | None:
        token = await stack.served(grant)
        return token if token and token != before else None

    return str(await until(newer, 30, 0.2))


@pytest.mark.timeout(240)
async def test_runbook(stack: Stack) -> None:
    """Redis lost: its journal saves what the backup is too old for. All lost: whoever was refreshed since is named."""
    stack.use("rotating")
    stack.up("redis")
    await stack.healthy("redis")
    stack.up("broker")
    await stack.healthy("broker")
    kept = await stack.token("kept")
    old = await stack.token("moved-on")
    back_up, restore = runbook()
    for line in back_up:
        await stack.docker(line)
    moved_on = await refreshed(stack, "moved-on")
    assert moved_on != old
    volumes = stack.project / "volumes"

    # Redis's disk is gone, the broker's is not.
    for line in restore:
        if line.startswith("docker compose run"):
            service = re.search(r"(redis|broker) (?:-c|-C)", line)
            assert service is not None
            if service[1] == "broker":
                continue
            shutil.rmtree(volumes / "redis-data" / "appendonlydir")
        await stack.docker(line)
    assert await stack.served("moved-on") == moved_on
    assert await stack.served("kept") == kept

    # Both are gone.
    for line in restore:
        if line.startswith("docker compose run"):
            lost = "redis-data" if "/data" in line else "broker-data"
            for path in (volumes / lost).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        await stack.docker(line)
    assert await refreshed(stack, "kept") != kept
    assert await stack.served("moved-on") == old  # to its end
    await stack["broker"].exec("token-broker", "retry", "moved-on")

    async def named() -> bool:
        status = json.loads(await stack["broker"].exec("token-broker", "status", "--json", code=None))
        return any(g["grant_id"] == "moved-on" and g["reason"] == "reauthorization_required" for g in status["grants"])

    await until(named, 30, 1)
