"""deploy/systemd: the unit is hardened, and does what it says under a real systemd, set up as its head says."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from broker.sandbox import Sandbox
from broker.service import stop_limit
from broker.settings.file import load
from tests.deploy.conftest import Deployed
from tests.deploy.deployment import DEPLOY, filled_in, skip_or_fail
from tests.deploy.systemd import Systemd, systemd
from tests.ports import free_port
from tests.waiting import until

UNIT = DEPLOY / "systemd" / "token-broker.service"
SETTINGS = DEPLOY / "systemd" / "broker.toml"
CREDENTIALS = "/etc/token-broker/credentials"
CLIENT_SECRET = "a-client-secret-0123"
COMMAND = "/opt/token-broker/bin/token-broker"
DROP_IN = """
mkdir -p /etc/systemd/system/token-broker.service.d
cat > /etc/systemd/system/token-broker.service.d/test.conf <<'END'
[Service]
RestartSec=100ms
WatchdogSec=1500ms
TimeoutStopSec=1s
Environment=TOKEN_BROKER_HTTP__DRAIN_DELAY=2s
StandardOutput=append:/run/token-broker.log
StandardError=append:/run/token-broker.log
END
"""


def directives(text: str) -> dict[str, list[str]]:
    """Return the unit's assignments, in order."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^([A-Za-z]+)=(.*)$", text, flags=re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def test_exposure_is_low() -> None:
    """`systemd-analyze security` finds no more than what a service that speaks TCP and UDP must have."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        skip_or_fail("no systemd-analyze here: apt-get install systemd")
        return
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=12", "--no-pager", str(UNIT)],
        text=True,
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_settings_and_unit_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every secret of the settings is a credential, under a variable that wins over it, and there is time to stop."""
    unit = directives(UNIT.read_text())
    settings = filled_in(SETTINGS, monkeypatch)
    files = {
        "SEALING__KEYS_FILE": settings.sealing.keys_file,
        "REDIS__PASSWORD_FILE": settings.redis.password_file,
        "PROVIDERS__CAMERAMANAGER__CLIENT_SECRET_FILE": settings.providers["cameramanager"].client_secret_file,
    }
    assert unit["LoadCredential"] == [f"{file.name}:{file}" for file in files.values() if file is not None]
    assert unit["Environment"] == [f"TOKEN_BROKER_{n}=%d/{file.name}" for n, file in files.items() if file is not None]
    for line in unit["Environment"]:
        monkeypatch.setenv(*line.replace("%d", "/run/credentials").split("=", 1))
    over = load(SETTINGS)
    assert str(over.sealing.keys_file) == "/run/credentials/sealing_keys"
    assert str(over.redis.password_file) == "/run/credentials/redis_password"
    assert str(over.data_dir) == f"/var/lib/{unit['StateDirectory'][0]}"
    (stop,) = unit["TimeoutStopSec"]
    assert float(stop.removesuffix("s")) > stop_limit(settings) + 10
    assert f"({stop_limit(settings):.0f} s)" in UNIT.read_text()


@dataclass(slots=True)
class Installed:
    """The unit, set up as its head says, with the sandbox as its provider and Redis where a test has it."""

    manager: Systemd
    url: str
    sandbox: Sandbox
    key: str = ""

    async def token(self, grant: str) -> str | None:
        """Return the current access token, None where there is no answer."""
        try:
            async with (
                aiohttp.ClientSession(headers={"X-Broker-Key": self.key, "Accept": "text/plain"}) as session,
                session.get(f"{self.url}/v1/grants/{grant}/token") as answer,
            ):
                return await answer.text() if answer.status == 200 else None
        except aiohttp.ClientError:
            return None

    async def said(self, event: str) -> bool:
        """Whether it logged that event."""
        return f'"event": "{event}"' in await self.log()

    async def running(self, *, other_than: str = "0") -> str:
        """Return the main process, once systemd calls the unit active."""

        async def active() -> str | None:
            shown = await self.manager.shows("ActiveState", "SubState", "MainPID")
            good = (shown["ActiveState"], shown["SubState"]) == ("active", "running")
            return shown["MainPID"] if good and shown["MainPID"] != other_than else None

        return str(await until(active, 30, 0.2))

    async def log(self) -> str:
        """Return what the service said."""
        return await self.manager.inside(
            "cat /run/token-broker.log; systemctl status --no-pager token-broker", code=None
        )


def as_root_would(head: str, password: str) -> list[str]:
    """Return the commands of the unit's head without the venv, which is here; what a person pastes is piped in."""
    *install, unit, settings, folder, key, redis, client, start = re.findall(
        r"^#   (.+?)(?: +#.*)?$", head, flags=re.MULTILINE
    )
    commands = [unit, settings, folder, key, redis, client, start]
    assert install[0] == "python3 -m venv /opt/token-broker"
    assert [" --require-hashes " in command for command in install] == [False, False, True, False]
    assert " --no-deps " in install[-1]
    assert commands[-1] == "systemctl enable --now token-broker"
    pasted = {"redis_password": password, "cameramanager_client_secret": CLIENT_SECRET}
    for name, value in pasted.items():
        at = next(n for n, command in enumerate(commands) if command.endswith(f"cat > {CREDENTIALS}/{name})"))
        commands[at] = f"echo '{value}' | {commands[at]}"
    return commands


@pytest.fixture
async def installed(tmp_path: Path, sandbox: Sandbox, deployed: Deployed) -> AsyncIterator[Installed]:
    """Installed as the head says, not yet started; at the end its log holds neither secret nor traceback."""
    port = free_port()
    sandbox.cameramanager.client_secret = CLIENT_SECRET
    toml = SETTINGS.read_text()
    for old, new in (
        ("127.0.0.1:8080", f"127.0.0.1:{port}"),
        ("127.0.0.1:6379", f"127.0.0.1:{deployed.port}"),
        ("your-client-id", sandbox.cameramanager.client_id),
    ):
        assert old in toml
        toml = toml.replace(old, new)
    toml += f'token_endpoint = "{sandbox.url}/oauth/token"\n'
    commands = as_root_would(UNIT.read_text().split("[Unit]")[0], deployed.password)
    async with systemd(tmp_path / "scratch") as manager:
        *install, start = commands
        await manager.inside("\n".join(install))
        await manager.inside(f"cat > /etc/token-broker/broker.toml <<'END'\n{toml}END\n{DROP_IN}")
        here = Installed(manager, f"http://127.0.0.1:{port}", sandbox)
        try:
            await manager.inside(start)
            yield here
        finally:
            log = await here.log()
            print(log)
        assert "Traceback" not in log
        secrets = sandbox.secrets() | {CLIENT_SECRET, deployed.password, here.key}
        assert [s[:6] for s in secrets if len(s) > 5 and s in log] == []


@pytest.mark.timeout(240)
async def test_under_systemd(installed: Installed, deployed: Deployed, sandbox: Sandbox) -> None:
    """Started, confined, reloaded, hung, misled by its settings and stopped: as the unit says, by systemd itself."""
    manager = installed.manager
    assert await manager.inside("systemd-analyze verify /etc/systemd/system/token-broker.service") == ""
    pid = await installed.running()
    shown = await manager.shows("StatusText", "UnitFileState")
    assert shown["UnitFileState"] == "enabled"
    assert shown["StatusText"] in {"refreshing; 0 tokens in memory", "There are no grants yet."}

    # Confined: a user of its own without any right, a system call filter, secrets nowhere but in its credentials.
    process = dict(re.findall(r"^(\w+):\t(.*)$", await manager.inside(f"cat /proc/{pid}/status"), flags=re.MULTILINE))
    assert int(process["Uid"].split()[0]) > 60_000
    assert {process[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (process["NoNewPrivs"], process["Seccomp"]) == ("1", "2")
    shown_of_it = await manager.inside(f"tr '\\0' '\\n' < /proc/{pid}/environ; tr '\\0' ' ' < /proc/{pid}/cmdline")
    assert "TOKEN_BROKER_SEALING__KEYS_FILE=/run/credentials/token-broker.service/sealing_keys" in shown_of_it
    sealing_key = (await manager.inside(f"cat {CREDENTIALS}/sealing_keys")).strip()
    for secret in (CLIENT_SECRET, deployed.password, sealing_key):
        assert secret not in shown_of_it
    for path in ("/etc/token-broker/x", "/usr/x", "/var/lib/x", "/root/x"):
        await manager.inside(f"nsenter -t {pid} -m -S {process['Uid'].split()[0]} touch {path}", code=1)

    # It does its work there: Redis, the provider, the journal, and root's commands beside it.
    installed.key = (await manager.inside("cat /var/lib/token-broker/admin.key")).strip()
    refresh_token = sandbox.cameramanager.issue().refresh_token
    line = json.dumps({"grant_id": "acme", "provider": "cameramanager", "refresh_token": refresh_token})
    said = await manager.inside(f"echo '{line}' | {COMMAND} import -")
    assert "1 created" in said
    token = await until(lambda: installed.token("acme"))
    assert sandbox.cameramanager.is_live_access(token)
    assert "The grant has a valid token." in await manager.inside(f"{COMMAND} status")
    await manager.inside(f"{COMMAND} check")

    # Reloaded: the same process, ready again.
    await manager.inside("systemctl reload token-broker")
    await until(lambda: installed.said("settings.reloaded"), 10, 0.2)
    assert await installed.running() == pid

    # Hung: the watchdog ends it, and another takes over.
    await manager.inside(f"kill -STOP {pid}")
    other = await installed.running(other_than=pid)
    assert (await manager.shows("NRestarts"))["NRestarts"] == "1"
    assert await until(lambda: installed.token("acme")) == token

    # Killed: likewise. Stopped: in order, in the time that it asks for beyond TimeoutStopSec, and not again.
    await manager.inside(f"kill -KILL {other}")
    await installed.running(other_than=other)
    await manager.inside("systemctl stop token-broker")
    shown = await manager.shows("ActiveState", "Result", "ExecMainStatus", "NRestarts")
    assert shown == {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0", "NRestarts": "2"}
    assert await installed.said("broker.stopped")

    # Wrong settings: said once, and not tried again.
    await manager.inside("echo 'colour = 1' | cat - /etc/token-broker/broker.toml > /run/t")
    await manager.inside("cp /run/t /etc/token-broker/broker.toml; ! systemctl start token-broker 2>/dev/null")
    await asyncio.sleep(0.5)
    shown = await manager.shows("ActiveState", "Result", "ExecMainStatus")
    assert shown == {"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "78"}
    assert (await installed.log()).count("colour") == 1
