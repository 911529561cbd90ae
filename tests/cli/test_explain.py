"""`explain` against a running broker: what it says of real grants, and the exit code a script goes by."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Any

from tests.cli.conftest import C_LOCALE, COMMAND, Home
from tests.redis_server import RedisServer
from tests.waiting import until


async def importing(home: Home, *names: str, provider: str = "acme") -> None:
    """Import grants that the sandbox issued."""
    authority = {"acme": home.sandbox.rotating, "een": home.sandbox.v3}[provider]
    lines = [
        {"grant_id": name, "provider": provider, "refresh_token": authority.issue().refresh_token} for name in names
    ]
    (home.directory / "grants").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = await home("import", "grants")
    assert done.code == 0, done


async def explained(home: Home, grant: str) -> dict[str, Any]:
    """Return what `explain --json` says; its exit code is the one it names."""
    done = await home("explain", grant, "--json")
    said: dict[str, Any] = json.loads(done.out)
    assert done.code == said["exit_code"], done
    return said


async def outcome_is(home: Home, grant: str, outcome: str) -> dict[str, Any]:
    """Return the explanation once the last attempt came to *outcome*."""

    async def there() -> bool:
        attempts = json.loads((await home.get(f"/v1/grants/{grant}/attempts"))[1])["attempts"]
        return bool(attempts) and attempts[-1]["outcome"] == outcome

    await until(there, timeout=20)
    return await explained(home, grant)


async def _says(home: Home, grant: str, text: str) -> bool:
    """Whether an attempt was told *text*."""
    attempts = json.loads((await home.get(f"/v1/grants/{grant}/attempts"))[1])["attempts"]
    return any(text in (attempt["error_description"] or "") for attempt in attempts)


async def _held_back(home: Home) -> bool:
    """Whether the grant was claimed, and put off until its replay is due."""
    last = json.loads((await home.get("/v1/grants/door"))[1])["last"]
    return bool(last["detail"] == "open_attempt")


async def test_explain(home: Home, own_redis: RedisServer) -> None:
    """Alive, failing, of unknown outcome, dead, taken up, logged out and never seen: each with words and exit code."""
    keys = await home("keys", "new")
    (home.directory / "sealing.keys").write_text(keys.out.splitlines()[-1])
    home.write(
        '[sealing]\nkeys_file = "sealing.keys"\n[refresh]\nimport_spread = "0s"', redis=f'url = "{own_redis.url}"'
    )
    broker = await home.run()
    acme = home.sandbox.rotating
    await importing(home, "door")
    said = await outcome_is(home, "door", "refreshed")
    assert (said["exit_code"], said["person"], said["command"]) == (0, "nothing", None)
    done = await home("explain", "door")
    assert done.code == 0
    assert re.match(r"Grant door is alive\. Its access token is served until [-\d: ]+ \(in 60 min\)\.\n", done.out)
    assert re.search(rf"^ +[-\d: ]+ +a new token came: stored, next at .* by \S+:{broker.pid}$", done.out, re.MULTILINE)
    assert re.search(r"^Next: The broker refreshes it at [-\d: ]+ \(in \d\d min\)\.$", done.out, re.MULTILINE)
    assert done.out.endswith("For a person to do: nothing.\n")

    acme.faults.order("status", None, status=503, body={"error": "slow_down", "error_description": "tea\x07break"})
    await home("retry", "door")
    said = await outcome_is(home, "door", "busy")
    assert "tea\\x07break" in said["attempts"][-1]["error_description"]
    assert said["exit_code"] == 0

    acme.faults.clear()
    acme.faults.order("status", status=503, body={"error": "slow_down", "error_description": "混雑 später"})
    await home("retry", "door")
    await until(lambda: _says(home, "door", "später"))
    bare = {"PATH": os.environ["PATH"], **C_LOCALE}
    process = subprocess.Popen(
        [COMMAND, "explain", "door"], cwd=home.directory, env=bare, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    home.started.append(process)
    done = await home.ended(process)
    assert (done.code, done.err) == (0, "")
    assert "\\u6df7\\u96d1 sp\\xe4ter" in done.out

    await outcome_is(home, "door", "refreshed")
    acme.faults.order("reset", after_rotation=True)
    await home("retry", "door")
    said = await outcome_is(home, "door", "unknown")
    assert "for grant door" in said["why"]
    assert "may be spent" in said["why"]
    assert "just before its access token expires" in said["next"]
    assert said["next_at"] > said["attempts"][-1]["at"] + 3000

    await home("retry", "door")  # a person asks for it: it is held back all the same, which is no attempt
    await until(lambda: _held_back(home), timeout=10)
    assert (await explained(home, "door"))["attempts"] == said["attempts"]

    await importing(home, "gate")
    await outcome_is(home, "gate", "refreshed")
    acme.revoke_all()
    await home("retry", "gate")
    said = await outcome_is(home, "gate", "dead")
    assert said["exit_code"] == 77
    assert said["command"] == "token-broker login gate --provider acme"
    assert said["attempts"][-1]["error"] == "invalid_grant"
    done = await home("explain", "gate")
    assert done.code == 77
    assert "    token-broker login gate --provider acme\n" in done.out

    assert (await home("logout", "gate")).code == 0
    said = await explained(home, "gate")
    assert "was logged out and forgotten at" in said["why"]
    assert (said["exit_code"], said["attempts"]) == (1, [])
    never = await home("explain", "never")
    assert (never.code, never.err) == (1, "")
    assert "no grant never" in never.out
    assert "Next:" not in never.out
    assert (await home("explain", "no id")).code == 1
    await home.stop(broker)
    assert (await home("explain", "door")).code == 75


async def test_explain_a_suspended_provider(home: Home) -> None:
    """A registration that is refused is the provider's story; the server's own words are there, our secret is not."""
    home.write('[refresh]\nimport_spread = "0s"')
    await home.run()
    secret = home.sandbox.v3.client_secret
    body = {"error": "invalid_client", "error_description": f"no such secret: {secret}"}
    home.sandbox.v3.faults.order("status", None, status=401, body=body)
    await importing(home, "roof", provider="een")
    said = await outcome_is(home, "roof", "registration")
    assert "has refused this broker's client registration" in said["why"]
    assert said["command"] == "token-broker retry --provider een"
    assert said["exit_code"] == 1
    assert said["attempts"][-1]["error_description"] == "no such secret: [secret]"
    assert secret not in json.dumps(said)
