"""The synchronous twin: from threads, across a fork, and to its end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker.client import (
    BrokerUnreachable,
    InvalidConfiguration,
    ReauthorizationRequired,
    SyncBroker,
    TokenUnavailable,
)
from broker.testing import FakeBroker


@pytest.fixture
def client(fake: FakeBroker) -> Iterator[SyncBroker]:
    """Yield a synchronous client of the fake broker."""
    with SyncBroker.from_env() as broker:
        yield broker


def ours() -> list[str]:
    """Return the threads that clients have started."""
    return [thread.name for thread in threading.enumerate() if thread.name == "token-broker"]


def test_nothing_runs_before_it_is_used(fake: FakeBroker) -> None:
    """Made at import time, as such things are, it starts no thread; closed, it leaves none."""
    broker = SyncBroker(fake.url, fake.key)
    grant = broker.grant("g1")
    assert ours() == []
    assert grant.token().value == fake.grants["g1"].token
    assert ours() == ["token-broker"]
    broker.close()
    broker.close()
    assert ours() == []
    with pytest.raises(InvalidConfiguration, match="closed"):
        grant.token()


def test_many_threads_share_one_request(client: SyncBroker, fake: FakeBroker) -> None:
    """From fifty threads at once: one read, and afterwards none."""
    grant = client.grant("g1")
    with ThreadPoolExecutor(50) as threads:
        tokens = list(threads.map(lambda _: grant.token().value, range(200)))
    assert set(tokens) == {fake.grants["g1"].token}
    assert len([asked for asked in fake.asked if "If-None-Match" not in asked.headers]) == 1


def test_memory_needs_no_other_thread(client: SyncBroker, fake: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in memory is handed out where it is asked for."""
    grant = client.grant("g1")
    token = grant.token()
    monkeypatch.setattr(client, "_here", lambda: pytest.fail("the thread behind is asked"))
    for _ in range(100):
        assert grant.token().value == token.value


def test_the_next_token_comes_by_itself(client: SyncBroker, fake: FakeBroker) -> None:
    """The thread behind follows the grant."""
    grant = client.grant("g1")
    grant.token()
    time.sleep(0.05)
    rotated = fake.grants["g1"].rotate()
    ends = time.monotonic() + 3
    while grant.token().value != rotated:
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_restart_is_invisible(client: SyncBroker, fake: FakeBroker) -> None:
    """As with `Broker`."""
    grant = client.grant("g1")
    token = grant.token()
    fake.down()
    assert grant.token() is token
    with pytest.raises(BrokerUnreachable):
        client.grant("g2").token(timeout=0.2)
    fake.up()


def test_errors_come_as_they_are(client: SyncBroker, fake: FakeBroker) -> None:
    """From the thread behind to the one that asks."""
    fake.grants["g1"].kill()
    with pytest.raises(ReauthorizationRequired) as dead:
        client.grant("g1").ready()
    assert dead.value.login_url == f"{fake.url}/#search=g1"
    fake.grants["g1"].log_in()
    fake.grants["g1"].provider_up = False
    fake.grants["g1"].expire()
    with pytest.raises(TokenUnavailable):
        client.grant("g1").token(timeout=0.2)
    with pytest.raises(InvalidConfiguration, match="grant id"):
        client.grant("../g1")


def test_a_report(client: SyncBroker, fake: FakeBroker) -> None:
    """As `Grant.report`, for whoever sends requests by something else."""
    grant = client.grant("g1")
    token = grant.token()
    newer = grant.report(token)
    assert newer is not None
    assert newer.value == fake.grants["g1"].token != token.value
    assert grant.token().value == newer.value


FORK = """
import gc, os, signal, sys, time
from broker.client import SyncBroker
signal.alarm(30)
broker = SyncBroker.from_env()
grant = broker.grant("g1")
first = grant.token().value
child = os.fork()
if not child:
    signal.alarm(20)
    assert grant.token().value == first
    gc.collect()  # what was the parent's is not closed from here
    time.sleep(0.2)
    broker.close()
    os._exit(7)
assert os.waitpid(child, 0)[1] >> 8 == 7
assert grant.token().value == first
print("both", flush=True)
sys.stdin.readline()
ends = time.monotonic() + 5
while grant.token().value == first:
    assert time.monotonic() < ends, "the parent follows no longer"
    time.sleep(0.01)
broker.close()
print("followed")
"""


def test_both_sides_of_a_fork(fake: FakeBroker) -> None:
    """As a preforking server does it: made and used in the parent, used in the child, and the parent goes on."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", "-c", FORK],
        env={**os.environ, **fake.env},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "both\n", process.communicate(timeout=10)[1]
        fake.grants["g1"].rotate()
        out, err = process.communicate("\n", timeout=20)
    finally:
        process.kill()
    assert (out, process.returncode) == ("followed\n", 0), err


@pytest.mark.parametrize("retry_after", [None, 30])
def test_who_waits_when_it_is_closed_hears_of_it(fake: FakeBroker, retry_after: int | None) -> None:
    """A service that stops while its broker is away: every thread that waits for a token comes back, with an error."""
    fake.grants["g1"].provider_up = False
    fake.grants["g1"].expire()
    if retry_after is None:
        fake.down()
    broker = SyncBroker(fake.url, fake.key)
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(broker.grant("g1").token, timeout=60) for _ in range(4)]
        time.sleep(0.5)
        broker.close()
        for each in waiting:
            with pytest.raises(InvalidConfiguration, match="closed"):
                each.result(5)
    assert ours() == []
