"""What the pages show of the client is run as it stands there."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from broker.testing import FakeBroker
from tests.client.conftest import Api
from tests.project.pages import blocks, page, tracked

SNIPPETS = [block for name in ("README.md", "broker/client/README.md") for block in blocks(page(name), "python")]
FIRST_CALL, SYNC, TEST = SNIPPETS[:3]


def _at(api: Api, snippet: str) -> Any:
    """Return the snippet, with *api* as its API, as code that may await."""
    return compile(
        snippet.replace("https://rest.cameramanager.com", api.url), "a page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )


def _lines(snippet: str) -> int:
    return len([line for line in snippet.splitlines() if line.strip()])


async def test_the_first_call(fake: FakeBroker, api: Api) -> None:
    """The asynchronous example needs six lines from import to the first call."""
    cameras = fake.add("acme-cameras")
    api.takes = lambda token: token == cameras.token
    room: dict[str, Any] = {}
    done = eval(_at(api, FIRST_CALL), room)
    assert inspect.isawaitable(done)
    await done
    assert room["me"] == {"length": 0}
    assert [came.path for came in api.came] == ["/rest/v2.0/users/self"]
    assert _lines(FIRST_CALL) == 6


async def test_without_an_event_loop(fake: FakeBroker, api: Api) -> None:
    """The synchronous example needs five lines from import to the first call."""
    cameras = fake.add("acme-cameras")
    api.takes = lambda token: token == cameras.token
    room: dict[str, Any] = {}
    await asyncio.to_thread(exec, _at(api, SYNC), room)
    room["session"].close()
    await asyncio.to_thread(room["session"].auth._grant._broker.close)
    assert room["me"] == {"length": 0}
    assert _lines(SYNC) == 5


def test_the_fixture(tmp_path: Path) -> None:
    """The fixture works as documented, in a project of its own."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["broker.testing.fixtures"]\n')
    (tmp_path / "test_it.py").write_text(f"from broker.client import Broker\n\n\n{TEST}")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKEN_BROKER_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_there_is_no_other_snippet() -> None:
    """No page shows Python that no test runs."""
    everywhere = [block for name in tracked() if name.endswith(".md") for block in blocks(page(name), "python")]
    assert sorted(everywhere) == sorted([FIRST_CALL, SYNC, TEST])
