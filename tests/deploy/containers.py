"""Containers as Compose or Kubernetes would run them, without either.

Each is a bubblewrap over this machine's programs, with the user, files and arguments that the deployment gives it and a
network namespace of its own. Needs root; leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.deploy.deployment import image, skip_or_fail
from tests.redis_server import server_binary
from tests.waiting import until

PATH = "/opt/token-broker/bin:/usr/local/bin:/usr/bin:/bin"
_ROOT = ["/usr", "/etc/ssl", "/etc/ld.so.cache", "/etc/nsswitch.conf"]
_CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")  # for setpriv, which takes them away


@dataclass(frozen=True, slots=True)
class Container:
    """What a deployment says of one container."""

    command: list[str]
    user: tuple[int, int]
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[tuple[Path, str, bool], ...] = ()
    """Source, target, and whether it may be written."""
    tmpfs: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()


@dataclass(slots=True)
class Node:
    """A host of the network, with the container that runs on it, if any."""

    name: str
    address: str
    anchor: subprocess.Popen[bytes]
    log: Path
    container: Container | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether its container runs."""
        return self.process is not None and self.process.poll() is None

    @property
    def output(self) -> str:
        """What its container said so far."""
        return self.log.read_text("utf-8", "replace")

    async def pid(self) -> int:
        """Return the container's own process, which bubblewrap waits for."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")

        async def begun() -> int | None:
            assert self.process is not None
            assert self.process.poll() is None, self.output
            for child in children.read_text().split():
                if "setpriv" not in Path(f"/proc/{child}/cmdline").read_text():
                    return int(child)
            return None

        return int(await until(begun))

    async def exec(self, *command: str, stdin: str = "", code: int | None = 0) -> str:
        """As `docker compose exec` and `kubectl exec`: run *command* in the container; what it printed.

        *code*: what it must exit with.
        """
        said, ended = await self.raw_exec(command, stdin.encode(), subprocess.STDOUT)
        assert code is None or ended == code, f"{command}: {ended}: {said.decode()}"
        return said.decode()

    async def raw_exec(self, command: Sequence[str], stdin: bytes, stderr: int) -> tuple[bytes, int | None]:
        """Run a command in bytes; return what it printed, and its exit code."""
        assert self.container is not None
        pid = str(await self.pid())
        process = await asyncio.create_subprocess_exec(
            "nsenter",
            "-t",
            pid,
            "-m",
            "-n",
            *_as_user(self.container),
            *command,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={"PATH": PATH, **self.container.environment},
        )
        said, _ = await asyncio.wait_for(process.communicate(stdin or None), 40)
        return said, process.returncode

    async def get(self, path: str, key: str = "", port: int = 8080) -> tuple[int, str]:
        """Status and body of a GET at its address with a caller's *key*; 0 where nobody answers."""
        with await asyncio.to_thread(_socket_in, self.anchor.pid) as end:
            end.setblocking(False)
            loop = asyncio.get_running_loop()
            try:
                await asyncio.wait_for(loop.sock_connect(end, (self.address, port)), 5)
                lines = (
                    f"GET {path} HTTP/1.0",
                    f"Host: {self.name}",
                    f"X-Broker-Key: {key}",
                    "Accept: text/plain",
                    "",
                    "",
                )
                await loop.sock_sendall(end, "\r\n".join(lines).encode())
                answer = b""
                while part := await asyncio.wait_for(loop.sock_recv(end, 65536), 10):
                    answer += part
            except OSError:
                return 0, ""
        first, _, rest = answer.partition(b"\r\n")
        return int(first.split()[1]) if first else 0, rest.partition(b"\r\n\r\n")[2].decode()

    async def end(self, number: int = signal.SIGTERM) -> int:
        """End its container by a signal; its exit code."""
        assert self.process is not None
        os.kill(await self.pid(), number)
        return await asyncio.to_thread(self.process.wait, 40)


def _socket_in(pid: int) -> socket.socket:
    """Return a TCP socket of the network namespace of *pid*; the thread that went there to make it is left alone."""
    made: list[socket.socket] = []

    def make() -> None:
        with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
            assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), os.O_RDONLY) == 0
        made.append(socket.socket())

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def _as_user(container: Container) -> list[str]:
    uid, gid = container.user
    groups = ["--groups", ",".join(map(str, container.groups))] if container.groups else ["--clear-groups"]
    return [
        "setpriv",
        f"--reuid={uid}",
        f"--regid={gid}",
        *groups,
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--no-new-privs",
    ]


def _run(*command: str) -> None:
    done = subprocess.run(command, text=True, capture_output=True, check=False, timeout=10)
    assert done.returncode == 0, done.stderr


@dataclass(slots=True)
class Network:
    """Hosts that reach each other by name, and nobody else."""

    folder: Path
    hub: subprocess.Popen[bytes]
    nodes: dict[str, Node] = field(default_factory=dict)
    server: Path = field(default_factory=lambda: Path(server_binary()))
    """What is behind the name valkey-server."""

    def node(self, name: str) -> Node:
        """Add a host."""
        number = len(self.nodes) + 2
        anchor = _namespace()
        here = Node(name, f"10.77.0.{number}", anchor, self.folder / f"{name}.log")
        inside, outside = ["nsenter", "-t", str(anchor.pid), "-n"], ["nsenter", "-t", str(self.hub.pid), "-n"]
        link = ["type", "veth", "peer", "name", "eth0", "netns", str(anchor.pid)]
        _run(*outside, "ip", "link", "add", f"v{number}", *link)
        _run(*outside, "ip", "link", "set", f"v{number}", "master", "br0", "up")
        for words in ("link set lo up", f"addr add {here.address}/24 dev eth0", "link set eth0 up"):
            _run(*inside, "ip", *words.split())
        self.nodes[name] = here
        with (self.folder / "hosts").open("a") as hosts:
            hosts.write(f"{here.address} {name}\n")
        return here

    def start(self, node: Node, container: Container) -> None:
        """Run *container* on *node*: the root is read-only, and writable is what the deployment names."""
        node.container = container
        with node.log.open("ab") as log:
            node.process = subprocess.Popen(
                self._command(node, container),
                env={"PATH": PATH, **container.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def run(self, node: Node, container: Container, stdin: bytes = b"") -> bytes:
        """As `docker compose run`: a container beside the one of *node*, to its end; its standard output."""
        process = await asyncio.create_subprocess_exec(
            *self._command(node, container),
            env={"PATH": PATH, **container.environment},
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(stdin or None), 40)
        assert process.returncode == 0, err.decode()
        return out

    def _command(self, node: Node, container: Container) -> list[str]:
        command = ["nsenter", "-t", str(node.anchor.pid), "-n", "bwrap", "--die-with-parent", "--unshare-ipc"]
        for capability in _CAPABILITIES:
            command += ["--cap-add", capability]
        files = self._files()
        targets = [*_ROOT, *files, *(target for _, target, _ in container.mounts)]
        for directory in sorted({str(parent) for target in targets for parent in Path(target).parents} - {"/"}):
            if not directory.startswith("/usr"):
                command += ["--perms", "0755", "--dir", directory]
        for path in _ROOT:
            command += ["--ro-bind", path, path]
        for name in ("bin", "sbin", "lib", "lib64"):
            command += ["--symlink", f"usr/{name}", f"/{name}"]
        command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/usr/local/bin", "--chdir", "/"]
        for target, source in files.items():
            command += ["--ro-bind", str(source), target]
        for target in container.tmpfs:
            command += ["--perms", "1777", "--tmpfs", target]
        for source, target, writable in container.mounts:
            command += ["--bind" if writable else "--ro-bind", str(source), target]
        command += ["--remount-ro", "/usr/local/bin", "--remount-ro", "/", "--"]
        return [*command, *_as_user(container), *container.command]

    def _files(self) -> dict[str, Path]:
        """Return what the images hold, and the network's names."""
        files = image(self.folder) | {"/etc/hosts": self.folder / "hosts"}
        for program in ("valkey-server", "valkey-sentinel"):
            files[f"/usr/local/bin/{program}"] = self.server
        if cli := shutil.which("valkey-cli") or shutil.which("redis-cli"):
            files["/usr/local/bin/valkey-cli"] = Path(cli).resolve()
        return files


def _namespace() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    ours = Path("/proc/self/ns/net").readlink()
    while Path(f"/proc/{process.pid}/ns/net").readlink() == ours:
        if process.poll() is not None:
            skip_or_fail("root is needed for network namespaces")
    return process


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


@contextlib.asynccontextmanager
async def network(folder: Path) -> AsyncIterator[Network]:
    """Yield an empty network; what runs in it ends with it."""
    missing = [name for name in ("bwrap", "setpriv", "nsenter", "unshare", "ip") if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        skip_or_fail(f"root and {missing or 'nothing else'} are needed: apt-get install bubblewrap util-linux iproute2")
    folder.mkdir(exist_ok=True)
    (folder / "hosts").write_text("127.0.0.1 localhost\n")
    made = Network(folder, _namespace())
    outside = ["nsenter", "-t", str(made.hub.pid), "-n", "ip"]
    try:
        _run(*outside, "link", "add", "br0", "type", "bridge")
        _run(*outside, "link", "set", "br0", "up")
        yield made
    finally:
        processes = [made.hub, *(node.anchor for node in made.nodes.values())]
        processes += [node.process for node in made.nodes.values() if node.process is not None]
        # A process that became another user dies with no parent any more.
        contained = [child for process in processes for child in _children(process.pid)]
        for process in processes:
            process.kill()
        for child in contained:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        for process in processes:
            await asyncio.to_thread(process.wait)
            if process.stdin is not None:
                process.stdin.close()
        for node in made.nodes.values():
            if node.log.exists():
                print(f"--- {node.name}\n{node.output[-3000:]}")
