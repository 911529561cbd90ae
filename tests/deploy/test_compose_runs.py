"""The services of docker-compose.yml and its overrides, run as written: set up by their heads' commands."""

from __future__ import annotations

import shlex
import signal

import pytest

from tests.deploy.composed import Stack
from tests.waiting import until


async def test_default(stack: Stack) -> None:
    """Redis and broker as written: healthy, a token, nothing writable but the volumes, and an end in order."""
    stack.up("redis")
    await stack.healthy("redis")
    stack.up("broker")
    await stack.healthy("broker")
    await stack.token()
    broker = stack["broker"]
    await broker.exec("touch", "/var/lib/token-broker/x")
    for path in ("/x", "/etc/token-broker/x", "/run/secrets/x", "/opt/x", "/usr/x"):
        await broker.exec("touch", path, code=1)
    assert await broker.end() == 0
    assert await stack["redis"].end() == 0


async def test_demo(stack: Stack) -> None:
    """The demo as written: without a secret or a name for its user, on a read-only root, it gives a token."""
    stack.up("demo")
    demo = stack["demo"]
    await until(lambda: "curl " in demo.output, 40, 0.2)
    comment = (stack.project / "docker-compose.yml").read_text().partition("# A demo that needs")[2]
    command = shlex.split(next(line for line in comment.splitlines() if " exec demo " in line))
    assert len((await demo.exec(*command[command.index("demo", command.index("exec")) + 1 :])).strip()) > 20
    for path in ("/x", "/var/lib/x", "/opt/x"):
        await demo.exec("touch", path, code=1)
    assert await demo.end() == 0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("stack", [("deploy/compose.tls.yml",)], indirect=True)
async def test_tls(stack: Stack) -> None:
    """Every connection to Redis is TLS, its certificate verified; a token is kept and read over it."""
    stack.use_tls()
    stack.up("redis")
    await stack.healthy("redis")
    stack.up("broker")
    await stack.healthy("broker")
    token = await stack.token()
    assert (await stack["broker"].exec("token-broker", "token", "acme")).strip() == token
    assert "ok: redis: the broker's user may send" in await stack["broker"].exec("token-broker", "check", "--online")
    for url in (
        "redis://broker@redis:6379/0",
        "rediss://broker@redis:6379/0",
    ):  # in plain, or trusting the system alone
        said = await stack["broker"].exec(
            "env", f"TOKEN_BROKER_REDIS__URL={url}", "token-broker", "check", "--online", code=1
        )
        assert "failed: redis" in said
    assert await stack["broker"].end() == 0
    assert await stack["redis"].end() == 0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("stack", [("deploy/compose.sentinel.yml",)], indirect=True)
async def test_sentinel(stack: Stack) -> None:
    """The primary ends: the Sentinels make the other one primary, refreshing goes on, and it comes back as replica."""
    for names in (["redis"], ["redis-replica"], ["sentinel-1", "sentinel-2", "sentinel-3"], ["broker"]):
        stack.up(*names)
        for name in names:
            await stack.healthy(name)
    token = await stack.token()
    assert "error: " not in await stack["broker"].exec("token-broker", "check", "--online")
    await _each_password_opens_one_door(stack)
    await stack["redis"].end(signal.SIGKILL)
    assert (await stack["broker"].exec("token-broker", "token", "acme")).strip() == token
    assert await until(lambda: _role(stack, "redis-replica", "master"), 30, 0.5)
    stack.up("redis")
    assert await until(lambda: _role(stack, "redis", "slave"), 30, 0.5)
    assert await until(lambda: _another(stack), 30, 0.5)
    for name in ("broker", "sentinel-1", "sentinel-2", "sentinel-3", "redis", "redis-replica"):
        assert await stack[name].end() == 0


async def _each_password_opens_one_door(stack: Stack) -> None:
    """No two passwords are equal, none of them is good at another door, and without one nobody may ask anything."""
    names = ("redis", "replica", "monitor", "sentinel", "lookup")
    held = {name: (stack.project / "secrets" / f"{name}_password").read_text().strip() for name in names}
    assert len({*held.values()}) == 5
    servers = {"broker": "redis", "replica": "replica", "sentinel": "monitor"}
    sentinels = {"broker": "lookup", "sentinel": "sentinel"}
    for node, port, doors in (("redis", "6379", servers), ("sentinel-1", "26379", sentinels)):
        for user, good in doors.items():
            script = "".join(f"AUTH {user} {password}\n" for password in held.values())
            said = await stack[node].exec("valkey-cli", "-p", port, stdin=script, code=None)
            answers = [line.partition(" ")[0] for line in said.split("\n") if line.strip()]
            assert answers == ["OK" if name == good else "WRONGPASS" for name in names], (node, user)
    asked = ("sentinel", "get-master-addr-by-name", "broker")
    said = await stack["sentinel-1"].exec("valkey-cli", "-p", "26379", *asked, code=None)
    assert said.startswith("NOAUTH")
    for forbidden in ("sentinel failover broker", "sentinel monitor x 127.0.0.1 1 1", "acl list"):
        script = f"AUTH broker {held['lookup']}\n{forbidden}\n"
        said = await stack["sentinel-1"].exec("valkey-cli", "-p", "26379", stdin=script, code=None)
        assert "NOPERM" in said, forbidden


async def _role(stack: Stack, name: str, wanted: str) -> bool:
    password = (stack.project / "secrets" / "monitor_password").read_text().strip()
    said = await stack[name].exec(
        "valkey-cli", "--no-auth-warning", "--user", "sentinel", "--pass", password, "role", code=None
    )
    return said.splitlines()[:1] == [wanted]


async def _another(stack: Stack) -> bool:
    return bool(await stack.token("other"))
