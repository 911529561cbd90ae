"""The deployed Redis, run for real: rendered by start.sh, with its redis.conf and its users."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from broker.store.redis.embedded import find_server
from tests.deploy.composed import Stack, stack_of
from tests.deploy.deployment import DEPLOY, USERS
from tests.ports import free_port

START = DEPLOY / "redis" / "start.sh"
CONSUMER_PASSWORD = "a-consumer's-own-password"


def start(directory: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """start.sh as the service runs it, its paths by environment."""
    variables = {
        "PATH": os.environ["PATH"],
        "REDIS_SERVER": find_server(),
        "REDIS_CONF": str(DEPLOY / "redis" / "redis.conf"),
        "ACL_TEMPLATE": str(USERS),
        "ACL_FILE": str(directory / "users.acl"),
        "PASSWORD_FILE": str(directory / "password"),
        "DATA_DIR": str(directory),
    } | environment
    return subprocess.Popen(
        ["/bin/sh", str(START), *arguments], env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def consumer_line() -> str:
    """Return the example of a consumer in users.acl, taken into use."""
    line = next(line for line in USERS.read_text().splitlines() if line.startswith("# user "))
    digest = hashlib.sha256(CONSUMER_PASSWORD.encode()).hexdigest()
    assert "SHA256_OF_ITS_PASSWORD" in line
    return line.removeprefix("# ").replace("SHA256_OF_ITS_PASSWORD", digest)


@dataclass(slots=True)
class Deployed:
    """The deployed Redis of one test, with a tester beside its users who may do everything."""

    process: subprocess.Popen[str]
    directory: Path
    port: int
    password: str

    def client(self, user: str | None, password: str | None = None) -> Redis:
        """Return a client of one of the users, or of nobody; it tries nothing twice."""
        return Redis(
            port=self.port,
            username=user,
            password=(password or self.password) if user else None,
            protocol=2,
            socket_timeout=5,
            driver_info=None,
            retry=Retry(NoBackoff(), 0),
        )

    @asynccontextmanager
    async def of(self, user: str | None, password: str | None = None) -> AsyncIterator[Redis]:
        """Yield the same, closed at the end."""
        async with self.client(user, password) as client:
            yield client


@pytest.fixture
def deployed() -> Iterator[Deployed]:
    """Yield the service `redis`, on this machine."""
    directory, port, password = Path(tempfile.mkdtemp(prefix="tb-acl-")), free_port(), secrets.token_urlsafe(24)
    (directory / "password").write_text(password + "\n")
    template = directory / "template.acl"
    template.write_text(f"{USERS.read_text()}\n{consumer_line()}\nuser tester on nopass ~* &* +@all\n")
    process = start(
        directory,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--aclfile",
        str(directory / "users.acl"),
        ACL_TEMPLATE=str(template),
    )
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the deployed Redis does not start"
            time.sleep(0.01)
    yield Deployed(process, directory, port, password)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    print(output)
    assert process.returncode == 0
    assert password not in output
    shutil.rmtree(directory)


@pytest.fixture
async def stack(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    """docker-compose.yml, with the overrides that the test is parametrised with, ready to be brought up."""
    async with stack_of(tmp_path, *getattr(request, "param", ())) as made:
        yield made
