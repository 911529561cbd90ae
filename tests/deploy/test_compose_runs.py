"""The services of docker-compose.yml and its overrides, run as written: set up by their heads' commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.composed import checkout, config, container, follow, head
from tests.deploy.containers import Network, Node, network
from tests.waiting import until

PROVIDER = Path(__file__).with_name("provider.py")


@dataclass(slots=True)
class Stack:
    """A project whose services run, each on a host of its own name."""

    project: Path
    composed: dict[str, Any]
    network: Network
    provider: dict[str, str]

    def up(self, *names: str) -> None:
        """Start services, as Compose does."""
        for name in names:
            node = self.network.nodes.get(name) or self.network.node(name)
            more = self.broker if name == "broker" else {}
            self.network.start(node, container(self.composed, name, self.project / "volumes", **more))

    @property
    def broker(self) -> dict[str, str]:
        """What a test says to a broker besides: where its provider is, and that nobody waits for a drain."""
        table = "TOKEN_BROKER_PROVIDERS__CAMERAMANAGER__"
        return {
            f"{table}CLIENT_ID": self.provider["client_id"],
            f"{table}TOKEN_ENDPOINT": "http://provider:9000/oauth/token", f"{table}ALLOW_HTTP": "true",
            "TOKEN_BROKER_HTTP__DRAIN_DELAY": "0s",
        }  # fmt: skip

    def __getitem__(self, name: str) -> Node:
        return self.network.nodes[name]

    async def healthy(self, name: str) -> None:
        """Wait until a service's own health check passes."""
        kind, *command = self.composed["services"][name]["healthcheck"]["test"]
        assert kind == "CMD"

        async def passes() -> bool:
            said = await self[name].exec("sh", "-c", '"$@" && echo PASSED || true', "sh", *command)
            return said.endswith("PASSED\n")

        await until(passes, 20, 0.2)

    async def gives_a_token(self, grant: str = "acme") -> str:
        """Import a grant, by the command in the container, and read its token there."""
        line = json.dumps(
            {"grant_id": grant, "provider": "cameramanager", "refresh_token": self.provider["refresh_token"]}
        )
        assert "1 created" in await self["broker"].exec("token-broker", "import", "-", stdin=line)
        return await self["broker"].exec("token-broker", "token", grant)


@pytest.fixture
async def stack(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    """The project with the overrides that the test names, its secrets made as the heads say, a provider beside it."""
    overrides: tuple[str, ...] = getattr(request, "param", ())
    project = checkout(tmp_path / "project")
    for name in ("docker-compose.yml", *overrides):
        follow(
            project, [command for command in head(project / name) if " up " not in command and " exec " not in command]
        )
    composed = config(project, *overrides)
    async with network(tmp_path / "network") as net:
        node = net.node("provider")
        inside = ["nsenter", "-t", str(node.anchor.pid), "-n"]
        process = subprocess.Popen(
            [*inside, sys.executable, str(PROVIDER), node.address],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout is not None
        try:
            provider = json.loads(process.stdout.readline())
            (project / "secrets" / "cameramanager_client_secret").write_text(provider["client_secret"])
            yield Stack(project, composed, net, provider)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        secrets = {path.read_text().strip() for path in (project / "secrets").iterdir()} | {provider["refresh_token"]}
        said = "".join(each.output for each in net.nodes.values() if each.process is not None)
        assert "Traceback" not in said
        assert [secret[:6] for secret in secrets if secret in said] == []


async def test_default(stack: Stack) -> None:
    """Redis and broker as written: healthy, a token, nothing writable but the volumes, and an end in order."""
    stack.up("redis")
    await stack.healthy("redis")
    stack.up("broker")
    await stack.healthy("broker")
    token = await stack.gives_a_token()
    broker = stack["broker"]
    await broker.exec("touch", "/var/lib/token-broker/x")
    for path in ("/x", "/etc/token-broker/x", "/run/secrets/x", "/opt/x", "/usr/x"):
        await broker.exec("touch", path, code=1)
    assert await broker.end() == 0
    stack.up("broker")  # from its volumes alone
    await stack.healthy("broker")
    assert await broker.exec("token-broker", "token", "acme") == token
    assert await broker.end() == 0
    assert await stack["redis"].end() == 0
