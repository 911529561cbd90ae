"""The environment over the file: which variables are settings, how values are spelled, and what is said of others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from broker.settings import Settings
from tests.settings.conftest import ACME, REDIS, Wrong

Loaded = Callable[..., Settings]
CALLER = f'[callers.video-wall]\nkey_sha256 = "{"0" * 64}"\n'


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("REDIS__NAMESPACE", "two", lambda s: s.redis.namespace == "two"),
        ("REFRESH__LEASE", " 5m\n", lambda s: s.refresh.lease == timedelta(minutes=5)),
        ("REFRESH__CONCURRENCY", "7", lambda s: s.refresh.concurrency == 7),
        ("REFRESH__WINDOW", "0.5,0.6", lambda s: s.refresh.window == (0.5, 0.6)),
        ("REFRESH__WINDOW", "[0.5, 0.6]", lambda s: s.refresh.window == (0.5, 0.6)),
        ("HTTP__ALLOW_PLAIN_HTTP", "true", lambda s: s.http.allow_plain_http),
        ("HTTP__LISTEN", "127.0.0.1:1", lambda s: s.http.listen == ["127.0.0.1:1"]),
        ("HTTP__LISTEN", "127.0.0.1:1, [::1]:1", lambda s: s.http.listen == ["127.0.0.1:1", "[::1]:1"]),
        ("HTTP__LISTEN", '["127.0.0.1:1"]', lambda s: s.http.listen == ["127.0.0.1:1"]),
        ("HTTP", '{"listen": ["127.0.0.1:1"]}', lambda s: s.http.listen == ["127.0.0.1:1"]),
        ("PROVIDERS__ACME__SCOPE", "a b", lambda s: s.providers["acme"].scope == "a b"),
        ("PROVIDERS__ACME__REUSE_GRACE", "forever", lambda s: s.providers["acme"].reuse_grace == "forever"),
        ("PROVIDERS__ACME__KEEP_FROM_CALLBACK", "a,b", lambda s: s.providers["acme"].keep_from_callback == ["a", "b"]),
        ("PROVIDERS__ACME__DEAD_STATUSES", "401,403", lambda s: s.providers["acme"].dead_statuses == [401, 403]),
        ("PROVIDERS__ACME__CLIENT_SECRET", "s", lambda s: s.providers["acme"].client_secret.get_secret_value() == "s"),
        ("PROVIDERS__ACME__TOKEN_PARAMS__X", "y", lambda s: s.providers["acme"].token_params == {"x": "y"}),
        ("PROVIDERS__ACME__TOKEN_PARAMS", '{"X": "y"}', lambda s: s.providers["acme"].token_params == {"X": "y"}),
        ("CALLERS__VIDEO_WALL__READ", "acme-*,b", lambda s: s.callers["video-wall"].read == ["acme-*", "b"]),
        ("DATA_DIR", "/elsewhere", lambda s: str(s.data_dir) == "/elsewhere"),
    ],
)
def test_variable(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, name: str, value: str, read: Callable[[Settings], bool]
) -> None:
    """A variable wins over the file, lists and tables included, and finds names that have a '-'."""
    monkeypatch.setenv("TOKEN_BROKER_" + name, value)
    assert read(loaded(REDIS + ACME + CALLER))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("REDIS_URL", "redis://x", "no such setting: did you mean TOKEN_BROKER_REDIS__URL?"),
        ("HTTP__LISEN", "x", "no such setting: did you mean TOKEN_BROKER_HTTP__LISTEN?"),
        ("PROVIDERS__ACME__SKOPE", "x", "no such setting: did you mean TOKEN_BROKER_PROVIDERS__ACME__SCOPE?"),
        ("CALLERS__VIDEO_WALL__REED", "x", "no such setting: did you mean TOKEN_BROKER_CALLERS__VIDEO_WALL__READ?"),
        ("XYZ", "x", "no such setting: names are as in TOKEN_BROKER_HTTP__LISTEN, which is listen below [http]"),
        ("LOG__LEVEL__X", "x", "log.level is not a table: remove __X from the variable's name"),
        ("HTTP", "x", 'must be a table as JSON: {"…": …}'),
        ("PROVIDERS__ACME", "x", 'must be a table as JSON: {"…": …}'),
        ("HTTP__LISTEN", "[1", 'must be a list: a,b or ["a", "b"]'),
        ("LOG__LEVEL", "loud", "log.level: must be 'debug', 'info', 'warning' or 'error'"),
        ("REFRESH__CONCURRENCY", "many", "refresh.concurrency: must be a whole number"),
        ("PROVIDERS__ACME__PKCE", "perhaps", "providers.acme.pkce: must be true or false"),
        (
            "HTTP__LISTEN",
            "127.0.0.1",
            (
                "http.listen (item 1): must be an address and a port, such as "
                '"127.0.0.1:8080" or "[::1]:8080", or "unix:/run/token-broker/http.sock"'
            ),
        ),
        (
            "PROVIDERS__OTHER__TOKEN_ENDPOINT",
            "http://x.test/PASSWORD",
            ("providers.other.kind: is missing: add it below [providers.other]"),
        ),
        ("REDIS__REPLICAS", "PASSWORD", "redis.replicas: must be a whole number"),
    ],
)
def test_wrong_variable(wrong: Wrong, monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    """A variable that is no setting, or whose value is none, is named, and its value is not."""
    monkeypatch.setenv("TOKEN_BROKER_" + name, value)
    findings = wrong(REDIS + ACME + CALLER)
    assert f"environment: TOKEN_BROKER_{name}: {sentence}" in findings
    assert "PASSWORD" not in "".join(findings)


@pytest.mark.parametrize(
    "name",
    [
        "REDIS__URL",
        "HTTP__LISTEN",
        "HTTP__PUBLIC_LISTEN",
        "PROVIDERS__ACME__PKCE",
        "PROVIDERS__ACME__SCOPE",
        "UNHEARD_OF",
    ],
)
def test_empty_is_unset(loaded: Loaded, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """An empty variable, as compose sets for one that is not given, changes nothing."""
    plain = loaded(REDIS + ACME)
    monkeypatch.setenv("TOKEN_BROKER_" + name, "")
    assert loaded(REDIS + ACME) == plain


@pytest.mark.parametrize("name", ["URL", "KEY", "KEY_FILE", "CONFIG"])
def test_variables_of_the_commands(loaded: Loaded, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What belongs to the client and the commands is never a setting."""
    monkeypatch.setenv("TOKEN_BROKER_" + name, "http://127.0.0.1:1")
    assert loaded().redis.url == "embedded:"


def test_variables_of_kubernetes(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Kubernetes puts into every pod beside a Service named token-broker is not taken for settings."""
    for name in (
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "PORT",
        "PORT_8080_TCP",
        "PORT_8080_TCP_PROTO",
        "PORT_8080_TCP_PORT",
        "PORT_8080_TCP_ADDR",
    ):
        monkeypatch.setenv("TOKEN_BROKER_" + name, "tcp://10.0.0.1:8080")
    assert loaded().redis.url == "embedded:"


def test_file_of_another_shape(wrong: Wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable below what the file has as no table: the file's mistake is what is said."""
    monkeypatch.setenv("TOKEN_BROKER_HTTP__LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("TOKEN_BROKER_PROVIDERS__ACME__SCOPE", "x")
    findings = wrong("http = 5\nproviders = 5\n" + REDIS)
    assert [finding.split(": ", 1)[1] for finding in findings] == [
        "http: must be a table",
        "providers: must be a table",
    ]
