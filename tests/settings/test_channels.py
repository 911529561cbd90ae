"""Channels for notices in the settings: what is accepted, and what is said of each mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.errors import InvalidSettings
from broker.notify.channels.opening import require_channel
from broker.settings import NoticeChannel
from broker.settings.file import load
from tests.settings.conftest import ACME, REDIS, Wrong

if TYPE_CHECKING:
    from pathlib import Path

HOOK = "https://hooks.example.com/services/T0/B0/s3cret"


@pytest.mark.parametrize(
    "line",
    [
        'kind = "slack", url_file = "slack_url"',
        f'kind = "teams", url = "{HOOK}"',
        'kind = "ntfy", url = "https://ntfy.sh/my-topic"',
        'kind = "ntfy", url = "https://ntfy.sh/my-topic", key_file = "ntfy_token"',
        'kind = "pagerduty", key_file = "pagerduty_key"',
        'kind = "alertmanager", url = "http://alertmanager:9093", allow_http = true',
        'kind = "mail", url = "smtp://mail.example.com:587", sender = "b@example.com", to = ["ops@example.com"]',
        'kind = "command", command = ["apprise", "--config", "urls"], format = "text"',
        f'kind = "webhook", url = "{HOOK}", quiet = "22:00-07:00", time_zone = "Europe/Berlin", group = "5m"',
    ],
)
def test_one_line_each(tmp_path: Path, line: str) -> None:
    """Every service is one line."""
    file = tmp_path / "broker.toml"
    file.write_text(f"{REDIS}[notify]\nchannels.team = {{ {line} }}\n{ACME}")
    assert load(file).notify.channels["team"].kind in line


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ('kind = "icq", url = "https://x.test/"', "kind: must be 'slack', 'teams'"),
        ('kind = "slack"', "url_file: is missing, and so is url: set one of them"),
        (f'kind = "slack", url = "{HOOK}", url_file = "x"', "url_file: does not belong beside url"),
        (f'kind = "slack", url = "{HOOK}", key_file = "x"', "key_file: means nothing for slack: remove it"),
        ('kind = "slack", url = "http://s3cret.test/"', "url: uses plain HTTP beyond loopback: use https"),
        ('kind = "slack", url = "s3cret"', "url: must be an http:// or https:// URL"),
        ('kind = "ntfy", url = "https://ntfy.sh/"', "url: must end with the topic"),
        ('kind = "pagerduty"', "key_file: is missing: write the integration key of the service (Events API v2)"),
        ('kind = "mail", url = "smtp://u:s3cret@x.test"', 'url: must be "smtp://HOST:PORT" (STARTTLS)'),
        ('kind = "mail", url = "smtps://x.test", to = ["a@x.test"]', 'sender: is missing: write sender = "token'),
        ('kind = "mail", url = "smtps://x.test", sender = "a", to = ["a@x.test"]', "sender: must be a mail address"),
        (f'kind = "slack", url = "{HOOK}", to = ["a@x.test"]', "to: means nothing for slack"),
        ('kind = "command"', "command: is missing: write command = ["),
        (f'kind = "slack", url = "{HOOK}", quiet = "22-7"', 'quiet: must be two different times of day, such as "22:'),
        (f'kind = "slack", url = "{HOOK}", quiet = "07:00-07:00"', "quiet: must be two different times of day"),
        (f'kind = "slack", url = "{HOOK}", time_zone = "Mars/Base"', "time_zone: must be a time zone that this system"),
        (f'kind = "slack", url = "{HOOK}", group = "2h"', "group: must be 1h or less"),
        (f'kind = "slack", url = "{HOOK}", events = ["fire"]', "events (item 1): must be 'reauthorization_required'"),
    ],
)
def test_mistakes(wrong: Wrong, line: str, finding: str) -> None:
    """A mistake is named by file, line and key, with what to do, and no URL is shown: it may be a secret."""
    findings = wrong(f"{REDIS}[notify.channels]\nteam = {{ {line} }}\n{ACME}")
    assert any(f"notify.channels.team.{finding}" in each for each in findings), findings
    assert all(each.startswith("broker.toml:") for each in findings)
    assert "s3cret" not in str(findings)


@pytest.mark.parametrize("name", ["webhook", "Team", "-", "a" * 33])
def test_names(wrong: Wrong, name: str) -> None:
    """The names that the broker itself uses, and those that no metric shows well, are refused."""
    findings = wrong(f'{REDIS}[notify.channels]\n{name} = {{ kind = "slack", url = "{HOOK}" }}\n{ACME}')
    assert any("must begin with a small letter or digit" in each for each in findings)


def test_a_secret_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL of a channel may come from the environment."""
    file = tmp_path / "broker.toml"
    file.write_text(f'{REDIS}[notify.channels.team]\nkind = "slack"\n{ACME}')
    monkeypatch.setenv("TOKEN_BROKER_NOTIFY__CHANNELS__TEAM__URL", HOOK)
    assert load(file).notify.channels["team"].url == HOOK


def test_files(tmp_path: Path) -> None:
    """A file that holds no usable URL or key is named with what it should hold, and its content is not shown."""
    url, key = tmp_path / "url", tmp_path / "key"
    url.write_text("http://s3cret.test/\n")
    key.write_text("s3cret\n")
    cases = {
        "url_file: .* uses plain HTTP beyond loopback": NoticeChannel(kind="slack", url_file=url),
        "url_file: .*No such file.*write the URL into it": NoticeChannel(kind="slack", url_file=tmp_path / "none"),
        "key_file: .* has no colon: write USER:PASSWORD": NoticeChannel(
            kind="mail", url="smtps://x.test", key_file=key, sender="a@x.test", to=["a@x.test"]
        ),
        "key_file: .* must hold whsec_": NoticeChannel(kind="webhook", url=HOOK, key_file=key),
        "command: no-such-program does not exist": NoticeChannel(kind="command", command=["no-such-program"]),
    }
    for words, channel in cases.items():
        with pytest.raises(InvalidSettings, match=rf"notify\.channels\.team\.{words}") as caught:
            require_channel("team", channel)
        assert "s3cret" not in str(caught.value)
