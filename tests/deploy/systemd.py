"""A real systemd for one unit: process 1 of namespaces of its own, over this machine's files but not into them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.deployment import ROOT, image, skip_or_fail
from tests.waiting import until

SYSTEMD = "/lib/systemd/systemd"
STUBS = ("sysinit", "basic", "shutdown", "network-online", "multi-user", "timers", "paths", "sockets", "slices")
_BOOT = """
set -eu
scratch=$1
shift
mount --make-rshared /
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work"
mount -t overlay overlay -o lowerdir=/etc,upperdir="$scratch/upper",workdir="$scratch/work" /etc
mount -t tmpfs tmpfs /etc/systemd/system
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /opt
mkdir -p /run/systemd/system /run/stubs
while [ "$1" != -- ]; do
    if [ -d "$2" ]; then mkdir -p "$1"; else mkdir -p "${1%/*}" && touch "$1"; fi
    mount --bind "$2" "$1"
    shift 2
done
shift
for stub in "$@"; do
    printf '[Unit]\\nDescription=%s\\nDefaultDependencies=no\\n' "$stub" > "/run/stubs/$stub.target"
done
umount -l /sys/fs/cgroup 2>/dev/null || :
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
export container=other SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/stubs
exec "$SYSTEMD" --system --unit=multi-user.target --log-target=console --log-level=info --show-status=no
"""


@dataclass(slots=True)
class Systemd:
    """A running one. What is run *inside* sees the machine as the unit does."""

    pid: int
    log: Path

    async def inside(self, script: str, *, code: int | None = 0) -> str:
        """Run a shell script there, in the checkout; what it printed. *code*: what it must exit with."""
        namespaces = ["nsenter", "-t", str(self.pid), "--mount", "--pid", "--cgroup"]
        # As a login shell has it; the machine's own /usr/local has nothing that belongs here.
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"}
        process = await asyncio.create_subprocess_exec(
            *namespaces,
            "sh",
            "-euc",
            f"cd /opt/checkout\n{script}",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), 40)
        assert code is None or process.returncode == code, f"{script}: {process.returncode}: {said.decode()}"
        return said.decode()

    async def shows(self, *properties: str) -> dict[str, str]:
        """Properties of the unit, as `systemctl show` gives them."""
        said = await self.inside(f"systemctl show token-broker -p {','.join(properties)}")
        return dict(line.split("=", 1) for line in said.splitlines())


@contextlib.asynccontextmanager
async def systemd(scratch: Path) -> AsyncIterator[Systemd]:
    """Boot one, with our Python at /opt, and an overlay on /etc; everything is gone with it."""
    if not Path(SYSTEMD).exists() or os.getuid() != 0:
        skip_or_fail("a systemd, and root to boot it, are needed: apt-get install systemd")
    scratch.mkdir()
    log = scratch.with_name("systemd.log")
    bound = [str(part) for pair in (*image(scratch.parent).items(), ("/opt/checkout", ROOT)) for part in pair]
    with log.open("wb") as output:
        booting = subprocess.Popen(
            [
                "unshare",
                "--fork",
                "--pid",
                "--mount",
                "--propagation",
                "slave",
                "--mount-proc",
                "--cgroup",
                "--uts",
                "--kill-child",
                "sh",
                "-c",
                _BOOT,
                "sh",
                str(scratch),
                *bound,
                "--",
                *STUBS,
            ],
            env={"PATH": os.environ["PATH"], "SYSTEMD": SYSTEMD},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        children = Path(f"/proc/{booting.pid}/task/{booting.pid}/children")

        async def booted() -> int | None:
            if booting.poll() is not None:
                skip_or_fail(f"no systemd can be booted here: {log.read_text()}")
            for child in children.read_text().split():
                one = Systemd(int(child), log)
                with contextlib.suppress(AssertionError):
                    await one.inside("systemctl is-active --quiet multi-user.target")
                    return one.pid
            return None

        yield Systemd(await until(booted, 20, 0.1), log)
    finally:
        booting.send_signal(signal.SIGKILL)  # --kill-child: the namespace ends with it
        await asyncio.to_thread(booting.wait)
        print(log.read_text())
        shutil.rmtree(scratch, ignore_errors=True)
