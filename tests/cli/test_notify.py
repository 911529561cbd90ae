"""`notify test` as people run it, against a receiver that is there, away, or not configured."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Home, lines
from tests.notify.conftest import Receiver


async def test_notify_test(home: Home) -> None:
    """What each channel answered is printed; exit 0 when all accepted, 1 when one did not, 75 without a broker."""
    (home.directory / "secret").write_text("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n")
    script = home.directory / "page"
    script.write_text(f"#!/bin/sh\ncat > {home.directory}/paged\n")
    script.chmod(0o755)
    receiver = Receiver(Path())
    await receiver.start()
    home.write(f'[notify]\nwebhook = "{receiver.url}"\nsecret_file = "secret"\ncommand = ["{script}"]\n')
    assert (await home("notify", "test")).code == 75
    await home.run()
    done = await home("notify", "test")
    assert (done.code, done.out, done.err) == (0, "webhook: accepted (HTTP 204)\ncommand: accepted (exit 0)\n", "")
    assert json.loads((home.directory / "paged").read_text())["event"] == "test"
    receiver.verify()
    await receiver.stop()
    done = await home("notify", "test")
    assert done.code == 1
    assert done.out.startswith("webhook: not accepted (the receiver cannot be reached")
    assert json.loads((await home("notify", "test", "--json")).out)["ways"][1]["told"] is True


async def test_nobody_to_tell(home: Home) -> None:
    """A broker without a channel: exit 78, and which settings would change that."""
    await home.run()
    done = await home("notify", "test")
    assert (done.code, done.out) == (78, "")
    (line,) = lines(done.err)
    assert line == (
        "token-broker: the broker has no channel for notices: set notify.webhook, notify.command or "
        "[notify.channels.NAME], and restart it"
    )
