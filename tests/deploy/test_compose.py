"""docker-compose.yml: hardened, its secrets in files, time enough to stop; and its settings load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from broker.secret import new_sealing_key
from broker.service import stop_limit
from broker.settings import file as settings_file
from broker.store.redis.embedded import find_server
from tests.deploy.composed import checkout, config, follow, head, mount
from tests.deploy.deployment import DEPLOY, ROOT, compose, deployed_settings, instructions, seconds

SERVICES = compose()["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened(name: str) -> None:
    """A fixed user that is not root, nothing writable but what is named, no capability, none to be gained."""
    service = SERVICES[name]
    user, group = (int(part) for part in service["user"].split(":"))
    assert user > 0
    assert group > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged")
    assert any(mount.startswith("/tmp") for mount in service["tmpfs"])


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_in_the_environment(name: str) -> None:
    """Nothing is handed over in the environment, so `docker inspect` shows no secret."""
    assert "environment" not in SERVICES[name]
    assert "env_file" not in SERVICES[name]


def test_user_is_the_image_s() -> None:
    """The user of docker-compose.yml is the one to whom the image gave the data directory."""
    uid = dict(instructions(stage=""))["USER"]
    assert SERVICES["broker"]["user"] == SERVICES["demo"]["user"] == uid == "10001:10001"
    assert ("COPY", f"--from=build --chown={uid} /data /var/lib/token-broker") in instructions(stage="")


def test_secrets_are_files_that_are_declared_and_used() -> None:
    """Every secret is a file under secrets/, which git and the image's build pass over, and somebody reads it."""
    declared = compose()["secrets"]
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", ())}
    assert used == set(declared)
    assert {source["file"] for source in declared.values()} == {f"./secrets/{name}" for name in declared}
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_named_volumes_hold_what_must_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker's journal and Redis's data are on named volumes, where their settings say."""
    settings = deployed_settings(monkeypatch)
    assert f"broker-data:{settings.data_dir}" in SERVICES["broker"]["volumes"]
    assert ("VOLUME", str(settings.data_dir)) in instructions(stage="")
    assert "data=${DATA_DIR:-/data}" in (DEPLOY / "redis" / "start.sh").read_text()
    assert "redis-data:/data" in SERVICES["redis"]["volumes"]
    assert set(compose()["volumes"]) == {"broker-data", "redis-data"}


def test_mounted_files_are_there_and_read_only() -> None:
    """Every file mounted from the checkout exists, and no container may write it."""
    mounts = [mount.split(":") for s in SERVICES.values() for mount in s.get("volumes", ()) if mount.startswith("./")]
    assert len(mounts) == 4
    for source, _, mode in mounts:
        assert (ROOT / source).is_file()
        assert mode == "ro"


def test_there_is_time_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopping broker is not killed before it wrote down the last answer."""
    settings = deployed_settings(monkeypatch)
    needed = stop_limit(settings)
    text = (ROOT / "docker-compose.yml").read_text()
    assert f"= {needed:.0f} s" in text, "the comment beside stop_grace_period computes another sum"
    assert seconds(SERVICES["broker"]["stop_grace_period"]) > needed + 10


@pytest.mark.parametrize("override", ["compose.tls.yml", "compose.sentinel.yml"])
def test_what_runs_comes_back_with_its_host(override: str) -> None:
    """A host that restarts brings everything back but the demo, and nothing that a person has stopped."""
    merged = config(ROOT, f"deploy/{override}")["services"]
    restarts = {name: service["restart"] for name, service in merged.items()}
    assert restarts.pop("demo", "no") == "no"
    assert restarts == dict.fromkeys(restarts, "unless-stopped")


def test_another_provider_is_an_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's commands make copies that git ignores; merged, the broker reads them, with one more secret."""
    project = checkout(tmp_path / "checkout")
    (project / "secrets").mkdir()
    path = DEPLOY / "compose.provider.yml"
    commands = head(path)
    copies, table, up = commands[:2], commands[2:-1], commands[-1]
    follow(project, copies)
    assert up == "docker compose up -d --build"
    merged = config(project, "docker-compose.override.yml")
    broker = merged["services"]["broker"]
    sources = {target: source for source, target, _ in map(mount, broker["volumes"])}
    assert sources["/etc/token-broker/broker.toml"] == str(project / "broker.toml")
    assert merged["secrets"]["acme_client_secret"]["file"] == str(project / "secrets" / "acme_client_secret")
    names = {secret["source"] if isinstance(secret, dict) else secret for secret in broker["secrets"]}
    assert names == {"sealing_keys", "redis_password", "cameramanager_client_secret", "acme_client_secret"}
    assert broker["restart"] == "unless-stopped"

    own = project / "broker.toml"
    before, _, after = own.read_text().partition("[providers.cameramanager]")
    rest = after.partition("\n\n")[2]
    filled = "\n".join(table).replace("your-client-id", "an-id").replace("id.acme.example", "id.acme.test")
    own.write_text(f"{before}{filled}\n\n{rest}")
    settings = settings_file.load(own)
    assert settings.providers.keys() == {"acme"}
    assert str(settings.providers["acme"].client_secret_file) == "/run/secrets/acme_client_secret"
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"/broker.toml", "/docker-compose.override.yml", "/secrets/"} <= set(ignored)


def test_broker_waits_for_a_healthy_redis() -> None:
    """The broker starts after Redis; each is asked for its health without a secret."""
    assert SERVICES["broker"]["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert SERVICES["broker"]["healthcheck"]["test"] == ["CMD", "token-broker", "health"]
    asked = SERVICES["redis"]["healthcheck"]["test"]
    assert asked[:2] == ["CMD", "valkey-cli"]
    assert asked[-5:] == ["--user", "health", "--pass", "none", "ping"]


def test_only_loopback_of_the_host_is_published() -> None:
    """Plain http leaves the host nowhere, and Redis is not published at all."""
    assert SERVICES["broker"]["ports"] == ["127.0.0.1:8080:8080"]
    assert "ports" not in SERVICES["redis"]
    assert SERVICES["redis"]["networks"] == ["store"]
    assert compose()["networks"]["store"] == {"internal": True}
    assert SERVICES["demo"]["network_mode"] == "none"


def test_settings_fit_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """deploy/broker.toml loads, and names the secrets, the port and the Redis that docker-compose.yml gives it."""
    settings = deployed_settings(monkeypatch)
    broker, declared = SERVICES["broker"], SERVICES["broker"]["secrets"]
    files = [
        settings.redis.password_file,
        settings.sealing.keys_file,
        settings.providers["cameramanager"].client_secret_file,
    ]
    assert sorted(str(file) for file in files) == sorted(f"/run/secrets/{name}" for name in declared)
    assert settings.redis.url == "redis://broker@redis:6379/0"
    assert settings.http.listen == ["0.0.0.0:8080"]
    assert settings.http.public_url == "http://" + broker["ports"][0].rpartition(":")[0]
    assert "./deploy/broker.toml:/etc/token-broker/broker.toml:ro" in broker["volumes"]


def test_commands_find_settings_and_secrets(tmp_path: Path) -> None:
    """With the secrets in place `health` reads deploy/broker.toml and only finds nobody there."""
    (tmp_path / "keys").write_text(new_sealing_key())
    text = (DEPLOY / "broker.toml").read_text()
    text = text.replace("/run/secrets", str(tmp_path)).replace("0.0.0.0:8080", "0.0.0.0:1")
    text = text.replace("your-client-id", "an-id")
    (tmp_path / "broker.toml").write_text(text)
    done = run("health", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("down")
    assert "no broker answers at http://127.0.0.1:1 " in done.stdout


def test_keys_new_writes_a_file_that_opens(tmp_path: Path) -> None:
    """What the header of docker-compose.yml has written to secrets/sealing_keys is a key file, and nothing else."""
    from broker.secret import parse_sealing_keys

    done = run("keys", "new", cwd=tmp_path)
    assert len(parse_sealing_keys(done.stdout)) == 1
    assert "token-broker keys new" not in done.stdout


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`token-broker` with these arguments, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "broker", *arguments],
        cwd=cwd,
        env=_environment(cwd),
        text=True,
        capture_output=True,
        check=False,
        timeout=30,
    )


def _environment(directory: Path) -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "HOME": "/nonexistent",
        "TMPDIR": str(directory),
    }


def test_demo_gives_a_token_that_is_refreshed(tmp_path: Path, ended: list[subprocess.Popen[Any]]) -> None:
    """The service `demo` logs in by itself, and the command beside it fetches a token and then a newer one."""
    header = (ROOT / "docker-compose.yml").read_text()
    command = next(line for line in header.splitlines() if "exec demo sh -c" in line).split("'")[1]
    directory = tmp_path.parent / "d"  # a Unix socket's path is short
    directory.mkdir(exist_ok=True)
    assert find_server()
    process = subprocess.Popen(
        [sys.executable, "-m", "broker", *SERVICES["demo"]["command"], "--lifetime", "3", "--seconds", "40"],
        cwd=directory,
        env=_environment(directory),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ended.append(process)
    assert process.stdout is not None
    for line in process.stdout:
        if "demo-oidc refreshed" in line:
            break
    generations: set[int] = set()
    deadline = time.monotonic() + 20
    while len(generations) < 2:
        assert time.monotonic() < deadline, f"the demo's token stays the same: {generations}"
        fetched = subprocess.run(
            ["sh", "-c", command.replace("/tmp/", f"{directory}/") + " --format json"],
            env=_environment(directory),
            text=True,
            capture_output=True,
            check=False,
            timeout=20,
        )
        assert fetched.returncode == 0, fetched.stderr
        generations.add(json.loads(fetched.stdout)["generation"])
    process.terminate()
    assert process.wait(20) == 0
    assert list(directory.glob("token-broker-*")) == []


def test_compose_accepts_the_file() -> None:
    """Docker Compose itself reads the file, with and without the demo."""
    config(ROOT)
    with_demo = config(ROOT, arguments=("--profile", "demo"))
    assert with_demo["services"]["demo"]["network_mode"] == "none"


@pytest.mark.parametrize("override", ["compose.tls.yml", "compose.sentinel.yml"])
def test_overrides_keep_to_the_rules(override: str) -> None:
    """With an override every service is as hardened as before, and only more files, secrets and hosts are named."""
    merged = config(ROOT, f"deploy/{override}")
    services = merged["services"]
    assert services.keys() > {"broker", "redis"} or override == "compose.tls.yml"
    for name, service in services.items():
        assert service["user"] == ("10001:10001" if name in {"broker", "demo"} else "999:999")
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == SERVICES.get(name, SERVICES["redis"])["restart"]
        assert "ports" not in service or name == "broker"
        assert name in {"broker", "demo"} or list(service["networks"]) == ["store"]
        for entry in service.get("volumes", ()):
            source, target, writable = mount(entry)
            assert Path(source).is_file() is not writable, f"{source} on {target}"
            assert writable == (target in {"/data", "/var/lib/token-broker"})
            assert not writable or source in merged["volumes"]
        for variable in service.get("environment") or {}:
            assert variable in {"TOKEN_BROKER_REDIS__URL", "TOKEN_BROKER_REDIS__REPLICAS"}
    files = {secret["file"] for secret in merged["secrets"].values()}
    assert files == {str(ROOT / "secrets" / name) for name in merged["secrets"]}
