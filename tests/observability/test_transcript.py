"""The whole way of a grant that dies and is healed, as those see it who watch: metric, alert, notice, explain, login.

Everything is real: the broker and the commands are processes, the authorization server and the receiver of notices
answer over HTTP, promtool judges what was scraped. With `-s` the transcript is printed; `BROKER_TEST_TRANSCRIPT=FILE`
keeps it.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from broker.sandbox import walk_login
from tests.cli.conftest import Done, Home, read_until
from tests.notify.conftest import Receiver
from tests.observability.queries import Sample, fed, fires, promtool_test, rules, samples
from tests.waiting import until

GRANT = "acme-cameras"
DEAD = "TokenBrokerReauthorizationRequired"


@dataclass(slots=True)
class Watched:
    """A broker that is watched, and what was seen, in order."""

    home: Home
    directory: Path
    seen: list[str] = field(default_factory=list)

    def tell(self, heading: str, *words: str) -> None:
        """Write down what happened."""
        self.seen += ["", f"== {heading}", *(line.rstrip() for text in words for line in text.strip().splitlines())]

    async def run(self, *command: str) -> Done:
        """Run a command and write down what it said."""
        done = await self.home(*command)
        self.tell(f"token-broker {' '.join(command)}  (exit {done.code})", done.out, done.err)
        return done

    async def scrape(self) -> list[Sample]:
        """Return what Prometheus gets now."""
        status, text = await self.home.get("/metrics")
        assert status == 200
        return samples(text)

    async def series(self, name: str) -> list[Sample]:
        """Those of one name."""
        return [
            sample for sample in await self.scrape() if sample.name == f"token_broker_grant_{name}_timestamp_seconds"
        ]

    async def firing(self, heading: str, *names: str) -> None:
        """Have promtool judge a scrape by the deployed rules, and write down what it tells of the alert that fires."""
        scraped = await self.scrape()
        await fires(self.directory, scraped, *names, minutes=2)
        words = ["no alert fires"]
        for name in names:
            asked = [{"eval_time": "2m", "alertname": name, "exp_alerts": []}]  # so it says what it got instead
            case = {"interval": "1m", "input_series": fed(scraped, 2), "alert_rule_test": asked}
            _, printed = await promtool_test(self.directory, [case], rules())
            got = re.search(
                r'got:.*?Labels:(\{.*?\}).*?description="(.*?)", runbook.*?summary="(.*?)"\}', printed, re.DOTALL
            )
            assert got is not None, printed
            words = [got[1], got[3], got[2]]
        self.tell(f"promtool, {len(scraped)} series {heading}", *words)


@pytest.mark.timeout(150)  # a dozen programs, one after the other
async def test_a_grant_dies_and_is_healed(home: Home, receiver: Receiver, tmp_path: Path) -> None:
    """Each who watches learns of it: by metric, alert, signed notice and explain, and of its end likewise."""
    watched = Watched(home, tmp_path)
    home.write(
        f'[refresh]\nimport_spread = "0s"\n[notify]\nwebhook = "{receiver.url}"\nsecret_file = "{receiver.secret_file}"'
    )
    await home.run()
    issued = home.sandbox.rotating.issue().refresh_token
    (home.directory / "grants.ndjson").write_text(
        json.dumps({"grant_id": GRANT, "provider": "acme", "refresh_token": issued}) + "\n"
    )
    assert (await watched.run("import", "grants.ndjson")).code == 0
    await until(lambda: watched.series("last_success"), timeout=20, every=0.2)
    await watched.firing("of a broker whose grant lives")

    home.sandbox.rotating.revoke_all()
    watched.tell("the provider revokes the grant")
    assert (await watched.run("retry", GRANT)).code == 0  # its refresh, which is due in some 45 minutes, now
    (parked,) = await until(lambda: watched.series("parked"), timeout=20, every=0.2)
    assert (parked.labels["grant"], parked.labels["reason"]) == (GRANT, "reauthorization_required")
    watched.tell("GET /metrics", f"{parked.series} {parked.value}")
    await watched.firing("after it died", DEAD)

    await until(lambda: receiver.notices, timeout=20)
    _notice(watched, receiver, "reauthorization_required")
    assert receiver.notices[0]["do"] == f"token-broker login {GRANT} --provider acme"
    explained = await watched.run("explain", GRANT)
    assert explained.code == 77
    assert receiver.notices[0]["do"] in explained.out

    login = home.start("login", GRANT, "--provider", "acme")
    said = await read_until(login, "http")
    await walk_login(said[-1].strip())
    ended = await home.ended(login)
    assert ended.code == 0, ended
    watched.tell(
        f"token-broker login {GRANT} --provider acme, and a browser opens its link  (exit {ended.code})",
        *said[:-1],
        re.sub(r"/login/\S+", "/login/…", said[-1]),
        ended.out,
    )

    await until(lambda: receiver.events[1:], timeout=30)
    _notice(watched, receiver, "recovered")
    await until(lambda: _nothing(watched), timeout=20, every=0.2)
    await watched.firing("after the login")
    assert (await watched.run("explain", GRANT)).code == 0
    assert receiver.events == ["reauthorization_required", "recovered"]
    receiver.verify()
    _keep("\n".join(watched.seen).strip() + "\n", home, tmp_path)


async def _nothing(watched: Watched) -> bool:
    return not await watched.series("parked")


def _notice(watched: Watched, receiver: Receiver, event: str) -> None:
    headers, body = receiver.posts[-1]
    notice: dict[str, Any] = json.loads(body)
    assert notice["event"] == event
    receiver.verify()
    signed = [f"{name}: {headers[name]}" for name in ("webhook-id", "webhook-timestamp", "webhook-signature")]
    watched.tell("the webhook receives, signature verified", *signed, json.dumps(notice, indent=1, ensure_ascii=False))


def _keep(transcript: str, home: Home, directory: Path) -> None:
    """Where whoever runs the test wants it, and on standard output; no secret stands in it."""
    leaked = [secret[:4] for secret in home.sandbox.secrets() if len(secret) > 5 and secret in transcript]
    assert not leaked
    Path(os.environ.get("BROKER_TEST_TRANSCRIPT") or directory / "transcript.txt").write_text(transcript, "utf-8")
    print(f"\n{transcript}")
