"""What is wrong in the settings is said in one line each: file and line, key, what is allowed, and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.errors import InvalidSettings
from broker.settings import catalogue
from broker.settings.file import load
from broker.settings.redis_url import parse_redis_url
from tests.settings.conftest import ACME, REDIS, Wrong

CASES = {
    "a key at the top": ('dat_dir = "x"\n' + REDIS, "broker.toml:1: dat_dir: no such key: did you mean data_dir?"),
    "a section": (REDIS + "[htpp]\n", "broker.toml:3: htpp: no such key: did you mean http?"),
    "a key in a section": (
        REDIS + '[http]\nlisen = ["x"]\n',
        "broker.toml:4: http.lisen: no such key: did you mean listen?",
    ),
    "a key of a provider": (
        REDIS + ACME + 'skope = "x"\n',
        "broker.toml:7: providers.acme.skope: no such key: did you mean scope?",
    ),
    "a key of a caller": (
        REDIS + '[callers.wall]\nkey_file = "k"\nreed = []\n',
        "broker.toml:5: callers.wall.reed: no such key: did you mean read?",
    ),
    "a key that resembles none": (
        REDIS + "[log]\nxyz = 1\n",
        "broker.toml:4: log.xyz: no such key; allowed: level, format",
    ),
    "a key of another section": (
        REDIS + "[log]\nlease = 1\n",
        "broker.toml:4: log.lease: no such key: it belongs below [refresh]",
    ),
    "a top key below a section": (
        REDIS + 'data_dir = "x"\n',
        "broker.toml:3: redis.data_dir: no such key: data_dir belongs above the first [table]",
    ),
    "a section below a section": (REDIS + "log = 1\n", "broker.toml:3: redis.log: no such key: write [log]"),
    "a webhook over plain http": (
        REDIS + '[notify]\nwebhook = "http://hooks.test/x"\n',
        "broker.toml:4: notify.webhook: uses plain HTTP beyond loopback: use https, or set notify.allow_http = true",
    ),
    "a secret that signs nothing": (
        REDIS + '[notify]\nsecret_file = "s"\n',
        (
            "broker.toml:4: notify.secret_file: needs notify.webhook, whose requests it signs: set that too, "
            "or remove this"
        ),
    ),
    "an event that is none": (
        REDIS + '[notify]\nevents = ["refreshed"]\n',
        (
            "broker.toml:4: notify.events (item 1): must be 'reauthorization_required', 'reauthorize_soon', "
            "'refresh_failing', 'provider_suspended' or 'recovered'"
        ),
    ),
    "a callback parameter that belongs to the login": (
        REDIS + ACME + 'keep_from_callback = ["realmId", "state"]\n',
        (
            'broker.toml:7: providers.acme.keep_from_callback (item 2): must not name "state", which belongs to the '
            "login itself"
        ),
    ),
    "a callback parameter of an error": (
        REDIS + ACME + 'keep_from_callback = ["error_reason"]\n',
        (
            'broker.toml:7: providers.acme.keep_from_callback (item 1): must not name "error_reason", which belongs to '
            "the login itself"
        ),
    ),
    "a callback parameter that the broker sets": (
        REDIS + ACME + 'keep_from_callback = ["expires_in"]\n',
        (
            'broker.toml:7: providers.acme.keep_from_callback (item 1): must not name "expires_in", a member that the '
            "broker sets itself or never sends"
        ),
    ),
    "a path with an empty name": (
        REDIS + ACME + 'response_path = "data."\n',
        (
            "broker.toml:7: providers.acme.response_path: must be names of members joined by dots, such as "
            '"authed_user" or "data.token"'
        ),
    ),
    "no redis at all": (
        "",
        (
            'broker.toml: redis.url: is missing: write [redis] url = "redis://HOST:6379/0", or '
            'url = "embedded:" for a server in data_dir; `token-broker demo` needs no settings'
        ),
    ),
    "no redis.url": (
        '[redis]\nnamespace = "x"\n',
        (
            'broker.toml:1: redis.url: is missing: write [redis] url = "redis://HOST:6379/0", or '
            'url = "embedded:" for a server in data_dir; `token-broker demo` needs no settings'
        ),
    ),
    "no sealing keys beside Redis": (
        '[redis]\nurl = "redis://redis:6379/0"\n',
        (
            "broker.toml: sealing: keys_file is missing, and Redis is not embedded: run "
            '`token-broker keys new --to sealing.keys` and set keys_file = "sealing.keys" below [sealing]'
        ),
    ),
    "a lease that is too short": (
        REDIS + '[refresh]\nlease = "15s"\n',
        (
            "broker.toml:4: refresh.lease: (15s) must be longer than refresh.request_timeout + 5s (15s): raise "
            "lease or "
            "lower request_timeout"
        ),
    ),
    "a request longer than the default lease": (
        REDIS + '[refresh]\nrequest_timeout = "3m"\n',
        (
            "broker.toml:3: refresh.lease: (120s) must be longer than refresh.request_timeout + 5s (185s): raise "
            "lease or "
            "lower request_timeout"
        ),
    ),
    "a number for a duration": (
        REDIS + "[refresh]\nmin_interval = 60\n",
        'broker.toml:4: refresh.min_interval: must be a duration with its unit, such as "90s", "5m", "12h" or "14d"',
    ),
    "a duration without unit": (
        REDIS + '[http]\ndrain_delay = "3"\n',
        'broker.toml:4: http.drain_delay: must be a duration with its unit, such as "90s", "5m", "12h" or "14d"',
    ),
    "a duration without end": (
        REDIS + '[refresh]\nlease = "99999999999999999999d"\n',
        "broker.toml:4: refresh.lease: must be at most 36500d",
    ),
    "no time for a request": (
        REDIS + '[refresh]\nrequest_timeout = "0s"\n',
        "broker.toml:4: refresh.request_timeout: must be longer than 0s",
    ),
    "a grace, one line for both of its kinds": (
        REDIS + ACME + "reuse_grace = 5\n",
        (
            'broker.toml:7: providers.acme.reuse_grace: must be a duration with its unit, such as "90s", "5m", '
            '"12h" or '
            '"14d", or "forever"'
        ),
    ),
    "a window backwards": (
        REDIS + "[refresh]\nwindow = [0.9, 0.2]\n",
        (
            "broker.toml:4: refresh.window: must be two fractions of a token's lifetime, 0 < first <= second < 1, such "
            "as [0.70, 0.85]"
        ),
    ),
    "plain http to everybody": (
        REDIS + '[http]\nlisten = ["127.0.0.1:1", "0.0.0.0:8080"]\n',
        (
            "broker.toml:4: http.listen: 0.0.0.0:8080 uses plain HTTP beyond loopback: put TLS in front of it and set "
            "http.allow_plain_http = true"
        ),
    ),
    "a public_url on plain http": (
        REDIS + '[http]\npublic_url = "http://broker.example"\n',
        (
            "broker.toml:4: http.public_url: uses plain HTTP beyond loopback: use https, or set "
            "http.allow_plain_http = true"
        ),
    ),
    "plain http to a provider": (
        REDIS + ACME.replace("https:", "http:"),
        (
            "broker.toml:6: providers.acme.token_endpoint: uses plain HTTP beyond loopback: use https, or set "
            "allow_http = true for this provider"
        ),
    ),
    "a text for a list": (
        REDIS + '[http]\nlisten = "127.0.0.1:8080"\n',
        'broker.toml:4: http.listen: must be a list, such as ["…"]',
    ),
    "no address": (REDIS + "[http]\nlisten = []\n", "broker.toml:4: http.listen: must not be empty"),
    "a list over several lines": (
        REDIS + '[cache]\nwarm = [\n  "acme-*",\n  "a b",\n]\n',
        (
            'broker.toml:4: cache.warm (item 2): must be a pattern of grant ids, such as "acme-*" ("*" matches any '
            'text, "?" any character)'
        ),
    ),
    "a word that is none of these": (
        REDIS + '[log]\nlevel = "loud"\n',
        "broker.toml:4: log.level: must be 'debug', 'info', 'warning' or 'error'",
    ),
    "an octal number": (
        REDIS + "[http]\nsocket_mode = 0o660\n",
        "broker.toml:4: http.socket_mode: must be text in quotes",
    ),
    "a provider without a name": (
        REDIS + '[providers]\nkind = "oidc"\n',
        "broker.toml:4: providers.kind: must be a table, such as [providers.NAME]",
    ),
    "a provider with no good name": (
        REDIS + ACME.replace("acme]", '"a b"]'),
        (
            "broker.toml:3: providers.a b: must begin with a letter or digit; then letters, digits, '.', '_' or '-' "
            "may follow, at most 128 in all"
        ),
    ),
    "a provider without client_id": (
        REDIS + ACME.replace('client_id = "x"\n', ""),
        "broker.toml:3: providers.acme.client_id: is missing: add it below [providers.acme]",
    ),
    "oidc without issuer": (
        REDIS + '[providers.acme]\nkind = "oidc"\nclient_id = "x"\n',
        (
            'broker.toml:3: providers.acme.issuer: is missing: kind "oidc" needs it, exactly as the discovery document '
            "spells it"
        ),
    ),
    "oauth2 without an endpoint": (
        REDIS + '[providers.acme]\nkind = "oauth2"\nclient_id = "x"\n',
        (
            'broker.toml:3: providers.acme.token_endpoint: is missing: kind "oauth2" needs it (and '
            "authorization_endpoint, to log in)"
        ),
    ),
    "a kind that does not exist": (
        REDIS + ACME.replace('"oauth2"', '"oauth1"'),
        f"broker.toml:4: providers.acme.kind: {catalogue.unknown('oauth1')}",
    ),
    "two client secrets": (
        REDIS + ACME + 'client_secret = "PASSWORD"\nclient_secret_file = "x"\n',
        (
            "broker.toml:7: providers.acme.client_secret: conflicts with client_secret_file: keep that one, and remove "
            "client_secret"
        ),
    ),
    "a client secret that is a number": (
        REDIS + ACME + "client_secret = 123456789\n",
        "broker.toml:7: providers.acme.client_secret: must be text in quotes",
    ),
    "a caller without a key": (
        REDIS + '[callers.wall]\nread = ["*"]\n',
        (
            "broker.toml:3: callers.wall.key_file: is missing, and so is key_sha256: set one of them "
            "(`token-broker caller new NAME` prints the lines)"
        ),
    ),
    "a caller with two keys": (
        REDIS + f'[callers.wall]\nkey_sha256 = "{"0" * 64}"\nkey_file = "x"\n',
        "broker.toml:5: callers.wall.key_file: conflicts with key_sha256: keep one of them",
    ),
    "a key where its hash belongs": (
        REDIS + '[callers.wall]\nkey_sha256 = "PASSWORD"\n',
        "broker.toml:4: callers.wall.key_sha256: must be the 64 hex digits that `token-broker caller new NAME` prints",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_finding(wrong: Wrong, case: str) -> None:
    """Each mistake gives exactly this one sentence, with nothing secret in it."""
    text, sentence = CASES[case]
    findings = wrong(text)
    assert findings == (sentence,)
    assert "PASSWORD" not in findings[0]
    assert "123456789" not in findings[0]


@pytest.mark.parametrize(
    "address",
    ["8080", ":8080", "::1:8080", "x:99999", "http://127.0.0.1:8080", "127.0.0.1", "", "unix:x.sock", "[::1]", "a b:1"],
)
def test_bad_address(wrong: Wrong, address: str) -> None:
    """An address that nobody could listen on is refused with examples of good ones."""
    (finding,) = wrong(REDIS + f'[http]\nlisten = ["{address}"]\n')
    assert finding == (
        'broker.toml:4: http.listen (item 1): must be an address and a port, such as "127.0.0.1:8080" or '
        '"[::1]:8080", or "unix:/run/token-broker/http.sock"'
    )


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "acme.test",
        "https://",
        "https://u:PASSWORD@acme.test",
        "https://acme.test/#x",
        "https://[acme",
        "https://a:b/",
        "https://acme.test/a b",
        "",
    ],
)
def test_bad_endpoint(wrong: Wrong, url: str) -> None:
    """An endpoint that is no http(s) URL is refused without being repeated: a password may be in it."""
    (finding,) = wrong(REDIS + ACME.replace("https://acme.test/token", url))
    assert finding == (
        "broker.toml:6: providers.acme.token_endpoint: must be an http:// or https:// URL without user, password or "
        "fragment"
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        "redis:6379",
        "http://redis:6379/0",
        "redis://:PASSWORD@redis:6379/one",
        "redis://:PASSWORD@redis:99999/0",
        "redis://:PASS/WORD@redis/0",
        "redis://redis?retry_on_timeout=1",
        "embedded",
        "embedded:/x",
        "redis://[::1/0",
    ],
)
def test_bad_redis_url(wrong: Wrong, url: str) -> None:
    """A redis.url that could not be used is one line that does not repeat it: a password may be in it."""
    (finding,) = wrong(f'[redis]\nurl = "{url}"\n[sealing]\nkeys_file = "k"\n')
    assert finding.startswith("broker.toml:2: redis.url: ")
    assert "PASS" not in finding


def test_socket_path_is_bounded(wrong: Wrong) -> None:
    """A socket's path that no system could bind is found before it is tried."""
    (finding,) = wrong(REDIS + f'[http]\nlisten = ["unix:/{"x" * 120}"]\n')
    assert "at most 103 bytes" in finding


def test_all_at_once(wrong: Wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mistake is found in one reading, in the order of the file, the environment's before."""
    monkeypatch.setenv("TOKEN_BROKER_REDIS_URL", "redis://x")
    monkeypatch.setenv("TOKEN_BROKER_REFRESH__CONCURRENCY", "many")
    findings = wrong(
        'dat_dir = "x"\n[http]\nlisten = ["0.0.0.0:1"]\ndrain_delay = 3\n[redis]\nurl = "redis://x"\n'
        '[providers.acme]\nkind = "oidc"\nclient_secret = "a"\nclient_secret_file = "b"\n[callers.wall]\nread = "*"\n'
    )
    keys = [finding.split(": ")[1 if finding.startswith("broker.toml") else 2] for finding in findings]
    assert keys == [
        "no such setting",
        "refresh.concurrency",
        "sealing",
        "dat_dir",
        "http.listen",
        "http.drain_delay",
        "providers.acme.client_id",
        "providers.acme.issuer",
        "providers.acme.client_secret",
        "callers.wall.key_file",
        "callers.wall.read",
    ]


def test_data_dir_is_absolute(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative data_dir, as `init` prints it, means one place from then on: a socket's URL needs the whole path."""
    monkeypatch.chdir(file.parent)
    file.write_text('data_dir = "./data"\n' + REDIS)
    assert load(file).data_dir == file.parent / "data"


@pytest.mark.parametrize("raw", "?#/@")
@pytest.mark.parametrize("before", ["", "se", "a/b", "a?b=", "x&password="])
@pytest.mark.parametrize(
    "form",
    [
        "redis://:{}@127.0.0.1:6379/0",
        "rediss://user:{}@127.0.0.1",
        "redis+sentinel://user:{}@h:26379/mymaster",
        "redis+cluster://:{}@h:7000,i:7000",
    ],
)
def test_a_password_with_characters_of_a_url(file: Path, form: str, before: str, raw: str) -> None:
    """No part of a password that is not percent-encoded is shown; the message says what to write."""
    password = f"{before}{raw}PASSWORD"
    url = form.format(password)
    if not set(password) & set("?#/"):  # an `@` alone ends nothing: the last one counts
        assert parse_redis_url(url).password == password
        return
    file.write_text(f'[redis]\nurl = "{url}"\n')
    with pytest.raises(InvalidSettings) as caught:
        load(file)
    assert "PASSWORD" not in str(caught.value)
    assert "%3F" in str(caught.value)
