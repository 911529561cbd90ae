"""docker-compose.yml and its overrides as Compose itself merges them, and their services as containers to run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.deploy.containers import Container, Network, Node, network
from tests.deploy.deployment import DEPLOY, ROOT, instructions, skip_or_fail
from tests.waiting import until

PROVIDER = Path(__file__).with_name("run_sandbox.py")

_SHIM = """#!/bin/sh
# What `docker compose` does here: no engine, so `build` is done, and `run … broker ARGUMENTS` runs token-broker itself.
[ "$1" = compose ] && shift
while [ "$1" = -f ]; do shift 2; done
case "$*" in
build*) ;;
"run --rm -T --no-deps broker "*) shift 5; exec token-broker "$@" ;;
*) echo "no such docker here: $*" >&2; exit 1 ;;
esac
"""


def compose_command() -> list[str]:
    """Docker Compose 2, or Debian's 1.29; skips where there is none."""
    if shutil.which("docker"):
        asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False, timeout=20)
        if asked.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        skip_or_fail("no Docker Compose here: apt-get install docker-compose")
    return ["docker-compose"]


def config(project: Path, *overrides: str, arguments: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what Compose makes of the files in *project*: everything resolved and merged, without a warning."""
    files = [part for name in ("docker-compose.yml", *overrides) for part in ("-f", str(project / name))]
    done = subprocess.run(
        [*compose_command(), "--project-directory", str(project), *files, *arguments, "config"],
        text=True,
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    read: dict[str, Any] = yaml.safe_load(done.stdout)
    return read


def checkout(folder: Path) -> Path:
    """Return a checkout to follow the files' heads in: nothing of them reaches the real one."""
    folder.mkdir()
    shutil.copytree(DEPLOY, folder / "deploy")
    shutil.copy(ROOT / "docker-compose.yml", folder)
    return folder


def head(path: Path) -> list[str]:
    """Return the commands in the comment at the head of a file."""
    lines = path.read_text("utf-8").split("\n\n", 1)[0].splitlines()
    return [line.removeprefix("#   ") for line in lines if line.startswith("#   ")]


def follow(place: Path, commands: list[str], pasted: Mapping[str, str] | None = None) -> None:
    """Run commands of a head in *place*; what a person would paste into a file is *pasted*, by the file's name."""
    programs = place.parent / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "docker").write_text(_SHIM)
    (programs / "docker").chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in commands:
        wanted = re.search(r"cat > (?:\S*/)?(\w+)\)", command)
        given = (pasted or {})[wanted[1]] + "\n" if wanted else ""
        done = subprocess.run(
            ["sh", "-euc", command],
            cwd=place,
            input=given,
            env={"PATH": path, "HOME": "/nonexistent"},
            text=True,
            capture_output=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"


def container(composed: dict[str, Any], name: str, volumes: Path, **environment: str) -> Container:
    """Return a service as a container; named volumes are folders in *volumes*, given to the service's user once."""
    service = composed["services"][name]
    assert service["read_only"] is True
    uid, gid = (int(part) for part in service["user"].split(":"))
    mounts = []
    for entry in service.get("volumes", ()):
        source, target, writable = mount(entry)
        path = Path(source)
        if not path.is_absolute():
            path = volumes / source
            if not path.exists():
                path.mkdir(mode=0o700, parents=True)
                os.chown(path, uid, gid)
        mounts.append((path, target, writable))
    for entry in service.get("secrets", ()):
        source = entry["source"] if isinstance(entry, dict) else entry
        mounts.append((Path(composed["secrets"][source]["file"]), f"/run/secrets/{source}", False))
    entrypoint = service.get("entrypoint") or _of_image("ENTRYPOINT")
    command = service.get("command") or ([] if service.get("entrypoint") else _of_image("CMD"))
    given = {key: str(value) for key, value in (service.get("environment") or {}).items()}
    return Container(
        [*entrypoint, *command],
        (uid, gid),
        given | environment,
        tuple(mounts),
        tuple(entry.partition(":")[0] for entry in service["tmpfs"]),
    )


@dataclass(slots=True)
class Stack:
    """A project whose services run, each on a host of its own name."""

    project: Path
    composed: dict[str, Any]
    network: Network
    authorities: dict[str, dict[str, Any]]
    authority: str = "cameramanager"

    def use(self, authority: str) -> None:
        """Let the provider `cameramanager` be this authority of the sandbox."""
        self.authority = authority
        (self.project / "secrets" / "cameramanager_client_secret").write_text(self.provider["client_secret"])

    @property
    def provider(self) -> dict[str, Any]:
        """How the authority in use knows us."""
        return self.authorities[self.authority]

    def up(self, *names: str) -> None:
        """Start services, as Compose does."""
        for name in names:
            node = self.network.nodes.get(name) or self.network.node(name)
            more = self.broker if name == "broker" else {}
            self.network.start(node, container(self.composed, name, self.project / "volumes", **more))

    @property
    def broker(self) -> dict[str, str]:
        """What a test says to a broker besides: where its provider is, and not to wait long."""
        table = "TOKEN_BROKER_PROVIDERS__CAMERAMANAGER__"
        at = "http://provider:9000"
        if self.authority == "cameramanager":
            here = {
                "LOGOUT_ENDPOINT": f"{at}/rest/v2.0/users/self/tokens/current",
                "TOKEN_ENDPOINT": f"{at}/oauth/token",
            }
        else:
            here = {"KIND": "oauth2", "TOKEN_ENDPOINT": f"{at}/{self.authority}/token"}
        here |= {"CLIENT_ID": self.provider["client_id"], "ALLOW_HTTP": "true"}
        times = {"HTTP__DRAIN_DELAY": "0s", "REFRESH__REQUEST_TIMEOUT": "2s", "REFRESH__MIN_INTERVAL": "0s"}
        return {f"{table}{key}": value for key, value in here.items()} | {
            f"TOKEN_BROKER_{key}": value for key, value in times.items()
        }

    def __getitem__(self, name: str) -> Node:
        return self.network.nodes[name]

    def use_tls(self) -> None:
        """Have the servers be ones with TLS: not every server here has it."""
        candidates = [self.network.server, *map(Path, filter(None, [shutil.which("redis-server")]))]
        able = [server for server in candidates if b"SSL_CTX_new" in server.read_bytes()]
        if not able:
            skip_or_fail("no server with TLS here: apt-get install redis-server")
        self.network.server = able[0]
        if b"waitaof" not in able[0].read_bytes().lower():
            # Debian's 7.0 refuses an ACL with a command that it does not know.
            users = self.project / "deploy" / "redis" / "users.acl"
            users.write_text(users.read_text().replace(" +waitaof", ""))

    async def docker(self, line: str) -> None:
        """Do what one line of a runbook has `docker compose` do, with its redirection."""
        words = shlex.split(line, comments=True)
        assert words[:2] == ["docker", "compose"], line
        verb, *rest = words[2:]
        into = from_ = None
        if ">" in rest or "<" in rest:
            *rest, sign, name = rest
            into, from_ = (self.project / name, None) if sign == ">" else (None, self.project / name)
        stdin = from_.read_bytes() if from_ else b""
        defined = self.composed["services"]  # what others depend on comes first
        services = sorted(
            set(defined) & set(self.network.nodes), key=lambda name: len(defined[name].get("depends_on", ()))
        )
        if verb in {"stop", "start", "up"}:
            names = [word for word in rest if not word.startswith("-")] or services
            for name in names if verb != "stop" else reversed(names):
                running = self[name].running
                if verb == "stop" and running:
                    assert await self[name].end() == 0
                elif verb != "stop" and not running:
                    self.up(name)
                    await self.healthy(name)
            return
        if verb == "exec":
            assert rest.pop(0) == "-T"
            said, code = await self[rest[0]].raw_exec(rest[1:], stdin, subprocess.DEVNULL)
            assert code == 0, line
        else:
            assert (verb, *rest[:4]) == ("run", "--rm", "-T", "--no-deps", "--entrypoint"), line
            entrypoint, name, *arguments = rest[4:]
            service = container(self.composed, name, self.project / "volumes")
            said = await self.network.run(self[name], replace(service, command=[entrypoint, *arguments]), stdin)
        if into is not None:
            into.write_bytes(said)

    async def healthy(self, name: str) -> None:
        """Wait until a service's own health check passes."""
        kind, *command = self.composed["services"][name]["healthcheck"]["test"]
        assert kind == "CMD"

        async def passes() -> bool:
            if name == "broker" and (await self[name].get("/readyz"))[0] != 200:
                return False  # the command would say so too, after half a second of a core
            said = await self[name].exec("sh", "-c", '"$@" && echo PASSED || true', "sh", *command)
            return said.endswith("PASSED\n")

        await until(passes, 40, 0.2)

    async def token(self, grant: str = "acme", at: str = "broker") -> str:
        """Import a grant, by the command in the container, and read its token there."""
        refresh_token = self.provider["refresh_tokens"].pop()
        line = json.dumps({"grant_id": grant, "provider": "cameramanager", "refresh_token": refresh_token})
        assert "1 created" in await self[at].exec("token-broker", "import", "-", stdin=line)
        return (await self[at].exec("token-broker", "token", grant)).strip()

    async def served(self, grant: str, at: str = "broker") -> str:
        """Return the grant's token as a caller is served it, "" for none."""
        key = (self.project / "volumes" / f"{at}-data" / "admin.key").read_text().strip()
        status, body = await self[at].get(f"/v1/grants/{grant}/token", key)
        return body if status == 200 else ""


@contextlib.asynccontextmanager
async def stack_of(folder: Path, *overrides: str) -> AsyncIterator[Stack]:
    """Yield the project with these overrides, its secrets made as the heads say, and a provider; nothing is up yet."""
    project = checkout(folder / "project")
    for name in ("docker-compose.yml", *overrides):
        follow(project, [line for line in head(project / name) if " up " not in line and " exec " not in line])
    composed = config(project, *overrides, arguments=("--profile", "demo"))
    async with network(folder / "network") as net:
        node = net.node("provider")
        inside = ["nsenter", "-t", str(node.anchor.pid), "-n"]
        command = [*inside, sys.executable, str(PROVIDER), node.address]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None
        try:
            stack = Stack(project, composed, net, json.loads(process.stdout.readline()))
            stack.use("cameramanager")
            issued = {token for registration in stack.authorities.values() for token in registration["refresh_tokens"]}
            yield stack
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        secrets = {path.read_text().strip() for path in (project / "secrets").iterdir()} | issued
        said = "".join(each.output for each in net.nodes.values() if each.process is not None)
        assert "Traceback" not in said
        assert [secret[:6] for secret in secrets if secret in said] == []


def mount(entry: Any) -> tuple[str, str, bool]:
    """Source, target, and whether it may be written."""
    if isinstance(entry, dict):  # Compose 2
        return entry["source"], entry["target"], not entry.get("read_only", False)
    source, target, *mode = entry.split(":")
    return source, target, mode != ["ro"]


def _of_image(word: str) -> list[str]:
    said: list[str] = yaml.safe_load(dict(instructions(stage=""))[word])
    return said
