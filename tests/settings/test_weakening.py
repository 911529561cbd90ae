"""Whatever weakens has a word of its own: it is on the one list, and `check` warns of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from broker.check.settings import check_settings
from broker.check.weakening import check_weakening
from broker.settings import Settings
from broker.settings.redis_url import parse_redis_url
from broker.settings.weakening import WORDS, is_beyond_host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from broker.check.finding import Finding

ELSEWHERE = {"redis.allow_plain", "providers.NAME.state", "providers.NAME.pkce"}
"""The first one silences a warning; of the others, what a kind asks for by itself counts too."""


def where(*keys: str) -> str:
    """Return where a key was set."""
    return ".".join(keys)


def findings(settings: Settings) -> list[Finding]:
    """Return what is found in settings alone."""
    return [*check_settings(settings, where), *check_weakening(settings, where)]


@pytest.mark.parametrize(
    ("url", "more", "warned"),
    [
        ("redis://127.0.0.1:6379", "", []),
        ("redis://127.8.0.1", "", []),
        ("redis://[::1]/0", "", []),
        ("redis://localhost", "", []),
        ("unix:///run/redis.sock", "", []),
        ("embedded:", "", []),
        ("rediss://redis.example.com", "", []),
        ("redis://redis", "", ["plain TCP"]),
        ("redis://10.0.0.7", "", ["plain TCP"]),
        ("redis://[fd00::1]", "", ["plain TCP"]),
        ("redis://redis", "allow_plain = true", []),
        ("redis+sentinel://127.0.0.1,other/main", "", ["plain TCP"]),
        ("redis+cluster://other", "", ["plain TCP"]),
        ("rediss+sentinel://other/main", "", []),
        ("rediss://h?ssl_cert_reqs=none", "", ["any certificate"]),
        ("rediss://h?ssl_cert_reqs=optional", "", ["any certificate"]),
        ("rediss://h?ssl_cert_reqs=required", "", []),
        ("rediss://h?ssl_check_hostname=False", "", ["of any name"]),
        ("redis://u:geheim@localhost", "", ["holds a password"]),
        ("redis://localhost?password=geheim", "", ["holds a password"]),
        ("unix://:geheim@/run/redis.sock", "", ["holds a password"]),
        ("redis://u@localhost", "", []),
    ],
)
def test_redis(loaded: Callable[..., Settings], url: str, more: str, warned: list[str]) -> None:
    """Each weakness of redis.url is a warning that says what to do, and shows no password."""
    found = [
        finding
        for finding in check_weakening(loaded(f'[redis]\nurl = "{url}"\n{more}\n[sealing]\nkeys_file = "k"\n'), where)
        if finding.level == "warning"
    ]
    assert len(found) == len(warned)
    for finding, word in zip(found, warned, strict=True):
        assert word in finding.what
        assert finding.cure
        assert "geheim" not in str(finding)


def test_every_word_is_warned_of(loaded: Callable[..., Settings], tmp_path: Path) -> None:
    """With all of the list's words said, each of them is in a finding."""
    settings = loaded(
        f'data_dir = "{tmp_path}"\n[http]\nallow_plain_http = true\n[sealing]\nkeys_file = "k"\n'
        '[redis]\nurl = "rediss://h?ssl_cert_reqs=none&ssl_check_hostname=false"\nallow_plain = true\n'
        "[refresh]\njournal = false\n[notify]\nallow_http = true\n"
        '[notify.channels.team]\nkind = "slack"\nurl = "http://hooks.test/x"\nallow_http = true\n'
        '[providers.acme]\nkind = "oauth2"\nclient_id = "c"\nclient_secret = "s3cr3t-of-this-test"\nallow_http = true\n'
        'authorization_endpoint = "http://a.test/a"\ntoken_endpoint = "http://a.test/t"\nparameters = "query"\n'
        'state = "optional"\npkce = false\n'
    )
    said = "\n".join(str(finding) for finding in findings(settings) if finding.level == "warning")
    for word in WORDS:
        if word.setting not in ELSEWHERE:
            assert re.sub(r".*[. ]", "", word.setting) in said, word.setting


def test_every_word_is_listed() -> None:
    """No setting of the schema that begins with `allow_` is missing in the list, and the list names no other."""
    listed = {word.setting.partition(" ")[0] for word in WORDS}
    text = Settings.model_json_schema()
    names = {
        f"{section}.{key}": section
        for section, model in (
            ("http", "Http"),
            ("redis", "Redis"),
            ("notify", "Notify"),
            ("notify.channels.NAME", "NoticeChannel"),
            ("providers.NAME", "Provider"),
        )
        for key in text["$defs"][model]["properties"]
    }
    everywhere = {key for model in text["$defs"].values() for key in model.get("properties", {}) if "allow_" in key}
    assert everywhere <= {name.rpartition(".")[2] for name in listed}
    assert {name for name in names if ".allow_" in name} <= listed
    assert listed - {"refresh.journal"} <= names.keys()


def test_mixed_hosts() -> None:
    """One host beyond this one is enough."""
    assert is_beyond_host(parse_redis_url("redis+sentinel://127.0.0.1,localhost,b/main"))
    assert not is_beyond_host(parse_redis_url("redis+sentinel://127.0.0.1,localhost,[::1]:5/main"))
