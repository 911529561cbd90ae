"""deploy/kubernetes: rendered after its head's commands, valid, of one piece, and its pods run as written."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml  # type: ignore[import-untyped]

from broker.secret import parse_sealing_keys
from broker.service import stop_limit
from broker.settings import Settings
from tests.deploy.composed import Stack, follow, head
from tests.deploy.containers import Container
from tests.deploy.deployment import DEPLOY, ROOT, filled_in, instructions, skip_or_fail
from tests.waiting import until

KUSTOMIZATION = DEPLOY / "kubernetes" / "kustomization.yaml"
SETTINGS = DEPLOY / "kubernetes" / "broker.toml"
PASTED = {
    "redis_password": "a-redis-password-0123",
    "cameramanager_client_secret": "a-client-secret-0123",
    "redis_ca": "-----BEGIN CERTIFICATE-----",
}
Manifest = dict[str, Any]


def rendered(folder: Path, pasted: dict[str, str]) -> list[Manifest]:
    """Return what `kubectl apply -k .` would apply, from a copy of the directory with secrets made as its head says."""
    shutil.copytree(KUSTOMIZATION.parent, folder, ignore=shutil.ignore_patterns("secrets"))
    commands = [line for line in head(KUSTOMIZATION) if not line.startswith("kubectl")]
    assert len(commands) == 5
    follow(folder, commands, pasted)
    assert (folder / "secrets" / "sealing_keys").stat().st_mode & 0o777 == 0o600
    assert (folder / "secrets").stat().st_mode & 0o777 == 0o700
    tool = ["kubectl", "kustomize"] if shutil.which("kubectl") else ["kustomize", "build"]
    if shutil.which(tool[0]) is None:
        skip_or_fail("no kubectl here: apt-get install kubernetes-client")
    done = subprocess.run([*tool, str(folder)], text=True, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """Return the whole, rendered once."""
    return rendered(tmp_path_factory.mktemp("kubernetes") / "kubernetes", PASTED)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """deploy/kubernetes/broker.toml."""
    return filled_in(SETTINGS, monkeypatch)


def one(manifests: list[Manifest], kind: str, name: str = "token-broker") -> Manifest:
    """Return the object of that kind whose name is *name*, but for the hash that kustomize puts behind it."""
    found = [
        m for m in manifests if m["kind"] == kind and re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", m["metadata"]["name"])
    ]
    assert len(found) == 1, [m["metadata"]["name"] for m in manifests]
    return found[0]


def pod_of(manifests: list[Manifest]) -> Manifest:
    """Return the pod's specification."""
    spec: Manifest = one(manifests, "StatefulSet")["spec"]["template"]["spec"]
    return spec


def test_every_object_is_valid(manifests: list[Manifest]) -> None:
    """By the published schema of Kubernetes, strictly: no field that it does not know."""
    assert sorted(m["kind"] for m in manifests) == [
        "ConfigMap",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Secret",
        "Service",
        "Service",
        "StatefulSet",
    ]
    for manifest in manifests:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
        assert manifest["metadata"]["namespace"] == "token-broker"


def test_names_meet(manifests: list[Manifest]) -> None:
    """Whatever one object says of another is there: volumes, ports, labels, the set's own service."""
    stateful = one(manifests, "StatefulSet")["spec"]
    pod = pod_of(manifests)
    (container,) = pod["containers"]
    labels = stateful["template"]["metadata"]["labels"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claims = {claim["metadata"]["name"] for claim in stateful["volumeClaimTemplates"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys() | claims
    assert volumes["settings"]["configMap"]["name"] == one(manifests, "ConfigMap")["metadata"]["name"]
    assert volumes["secrets"]["secret"]["secretName"] == one(manifests, "Secret")["metadata"]["name"]

    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    probes = [container[kind]["httpGet"]["port"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")]
    services = [one(manifests, "Service"), one(manifests, "Service", "token-broker-pods")]
    probes += [port["targetPort"] for service in services for port in service["spec"]["ports"]]
    policy = one(manifests, "NetworkPolicy")["spec"]
    probes += [port["port"] for rule in policy["ingress"] for port in rule["ports"]]
    assert set(probes) == ports.keys() == {"http"}

    selectors = [stateful["selector"]["matchLabels"], policy["podSelector"]["matchLabels"]]
    selectors += [service["spec"]["selector"] for service in services]
    selectors += [one(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]]
    selectors += [spread["labelSelector"]["matchLabels"] for spread in pod["topologySpreadConstraints"]]
    assert all(selector.items() <= labels.items() and selector for selector in selectors)
    assert stateful["serviceName"] == services[1]["metadata"]["name"]
    assert services[1]["spec"]["clusterIP"] == "None"


def test_settings_fit(manifests: list[Manifest], settings: Settings) -> None:
    """The settings listen where the pod is asked, keep where it may write, and name the secrets that it is given."""
    (container,) = pod_of(manifests)["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    given = {f"{mounts['secrets']}/{name}" for name in one(manifests, "Secret")["data"]}
    files = [settings.sealing.keys_file, settings.redis.password_file]
    files += [provider.client_secret_file for provider in settings.providers.values()]
    assert settings.redis.url.startswith("rediss://")
    authority = settings.redis.url.partition("?ssl_ca_certs=")[2]
    assert {authority, *(str(file) for file in files)} == given
    assert f"{mounts['settings']}/broker.toml" == "/etc/token-broker/broker.toml"
    assert one(manifests, "ConfigMap")["data"]["broker.toml"] == SETTINGS.read_text()
    assert settings.data_dir.is_relative_to(mounts["data"])
    assert settings.http.listen == [f"0.0.0.0:{container['ports'][0]['containerPort']}"]
    ports = {port["port"] for rule in one(manifests, "NetworkPolicy")["spec"]["egress"] for port in rule["ports"]}
    assert ports == {53, 443, 6379, 26379}


def test_secrets_are_secrets(manifests: list[Manifest]) -> None:
    """What was made is what the pods get, and git passes it over."""
    data = {name: base64.b64decode(value).decode() for name, value in one(manifests, "Secret")["data"].items()}
    assert len(parse_sealing_keys(data.pop("sealing_keys"))) == 1
    assert {name: value.strip() for name, value in data.items()} == PASTED
    ignored = "deploy/kubernetes/secrets/"
    assert f"/{ignored}" in (ROOT / ".gitignore").read_text().splitlines()


def test_pods_are_confined_and_spread(manifests: list[Manifest]) -> None:
    """The `restricted` Pod Security Standard and a read-only root; two pods, apart, one of them always there."""
    pod = pod_of(manifests)
    (container,) = pod["containers"]
    uid, gid = (int(part) for part in dict(instructions(stage=""))["USER"].split(":"))
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (uid, gid, gid)
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    assert one(manifests, "StatefulSet")["spec"]["replicas"] == 2
    assert one(manifests, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert one(manifests, "NetworkPolicy")["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_there_is_time(manifests: list[Manifest], settings: Settings) -> None:
    """To stop before it is killed; to be seen unready before it closes; to answer a probe while Redis hangs."""
    pod = pod_of(manifests)
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] > stop_limit(settings) + 10
    assert f"= {stop_limit(settings):.0f} s." in (KUSTOMIZATION.parent / "statefulset.yaml").read_text()
    ready = container["readinessProbe"]
    assert settings.http.drain_delay.total_seconds() > ready["periodSeconds"] * ready["failureThreshold"]
    assert (ready["httpGet"]["path"], container["livenessProbe"]["httpGet"]["path"]) == ("/readyz", "/healthz")
    assert all(container[kind]["timeoutSeconds"] > 1 for kind in ("startupProbe", "livenessProbe", "readinessProbe"))


def pod(manifests: list[Manifest], folder: Path, name: str, **environment: str) -> Container:
    """Return a pod's container, its volumes in *folder*: as the kubelet makes them, given to the group `fsGroup`."""
    spec = pod_of(manifests)
    (container,) = spec["containers"]
    context = spec["securityContext"]
    group = context["fsGroup"]
    sources = {
        "settings": _files(folder / "settings", one(manifests, "ConfigMap")["data"], 0o644, 0),
        "secrets": _files(
            folder / "secrets",
            {key: base64.b64decode(value).decode() for key, value in one(manifests, "Secret")["data"].items()},
            next(v["secret"]["defaultMode"] for v in spec["volumes"] if v["name"] == "secrets"),
            group,
        ),
    }
    for claim in one(manifests, "StatefulSet")["spec"]["volumeClaimTemplates"]:
        volume = folder / f"{claim['metadata']['name']}-{name}"
        volume.mkdir(exist_ok=True)
        os.chown(volume, 0, group)
        volume.chmod(0o2775)
        sources[claim["metadata"]["name"]] = volume
    mounts = [
        (sources[mount["name"]], mount["mountPath"], not mount.get("readOnly", False))
        for mount in container["volumeMounts"]
        if mount["name"] in sources
    ]
    memory = {v["name"] for v in spec["volumes"] if "emptyDir" in v}
    entrypoint = yaml.safe_load(dict(instructions(stage=""))["ENTRYPOINT"])
    return Container(
        [*entrypoint, *container["args"]],
        (context["runAsUser"], context["runAsGroup"]),
        environment,
        tuple(mounts),
        tuple(m["mountPath"] for m in container["volumeMounts"] if m["name"] in memory),
        (group,),
    )


def _files(folder: Path, data: dict[str, str], mode: int, group: int) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in data.items():
        (folder / name).write_text(text)
        os.chown(folder / name, 0, group)
        (folder / name).chmod(mode)
    return folder


@pytest.mark.timeout(240)
@pytest.mark.parametrize("stack", [("deploy/compose.tls.yml",)], indirect=True)
async def test_pods_run(stack: Stack, tmp_path: Path) -> None:
    """Both, beside the Redis of docker-compose.yml with TLS: probed as written, one grant, an end in order."""
    password = (stack.project / "secrets" / "redis_password").read_text().strip()
    pasted = {"redis_password": password, "cameramanager_client_secret": stack.provider["client_secret"]}
    pasted["redis_ca"] = (stack.project / "secrets" / "redis_ca").read_text()
    stack.use_tls()
    manifests = rendered(tmp_path / "kubernetes", pasted)
    (container,) = pod_of(manifests)["containers"]
    stack.up("redis")
    await stack.healthy("redis")
    pods = ["token-broker-0", "token-broker-1"]

    def begin(name: str) -> None:
        node = stack.network.nodes.get(name) or stack.network.node(name)
        stack.network.start(node, pod(manifests, tmp_path, name, **stack.broker))

    async def probed(name: str, kind: str) -> bool:
        assert stack[name].process is not None
        asked = container[kind]["httpGet"]
        status, _ = await stack[name].get(asked["path"], port=container["ports"][0]["containerPort"])
        return status == 200

    for name in pods:
        begin(name)
    for name in pods:
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            await until(lambda: probed(name, kind), 30, 0.2)
    token = await stack.token(at=pods[0])
    assert (await stack[pods[1]].exec("token-broker", "token", "acme")).strip() == token
    for path in ("/x", "/etc/token-broker/x", "/run/secrets/token-broker/x", "/opt/x"):
        await stack[pods[0]].exec("touch", path, code=1)
    assert (tmp_path / f"data-{pods[0]}" / "data").stat().st_mode & 0o777 == 0o700
    assert await stack[pods[0]].end() == 0
    assert await probed(pods[1], "readinessProbe")
    begin(pods[0])
    await until(lambda: probed(pods[0], "readinessProbe"), 30, 0.2)
    assert (await stack[pods[0]].exec("token-broker", "token", "acme")).strip() == token
