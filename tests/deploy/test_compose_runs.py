"""The services of docker-compose.yml and its overrides, run as written: set up by their heads' commands."""

from __future__ import annotations

from tests.deploy.composed import Stack


async def test_default(stack: Stack) -> None:
    """Redis and broker as written: healthy, a token, nothing writable but the volumes, and an end in order."""
    stack.up("redis")
    await stack.healthy("redis")
    stack.up("broker")
    await stack.healthy("broker")
    token = await stack.token()
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
