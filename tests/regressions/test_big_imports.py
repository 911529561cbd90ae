"""Import files as they come from elsewhere: long, with every mistake in them, cut off and sent again."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import aiohttp

from tests.regressions.conftest import MakeGround
from tests.scripted_server import AuthorizationServer


async def test_a_big_import(make_ground: MakeGround, auth_server: AuthorizationServer) -> None:
    """Of a file with all that goes wrong in files, the good lines are in; a second time changes nothing."""
    async with make_ground("held", refresh={"import_spread": "1h"}) as ground:
        broker, many = ground.broker, 500
        lines = [
            json.dumps({"grant_id": f"b{n}", "provider": "as", "refresh_token": f"token-of-b{n}"}) for n in range(many)
        ]
        again = json.dumps({"grant_id": "b0", "provider": "as", "refresh_token": "another-token-of-b0"})
        stolen = json.dumps({"grant_id": "thief", "provider": "as", "refresh_token": "token-of-b1"})
        old = json.dumps(
            {"grant_id": "held", "provider": "as", "refresh_token": next(iter(auth_server.spent)).decode()}
        )
        bad = {
            10: "{",
            20: '{"grant_id": ',
            30: "nonsense",
            40: '{"grant_id": "a b", "provider": "as", "refresh_token": "x"}',
            50: '{"grant_id": "", "provider": "as", "refresh_token": "x"}',
            60: again,
            70: stolen,
            80: json.dumps({"grant_id": "long", "provider": "as", "refresh_token": "x" * 200_000}),
            90: '{"grant_id": "n1", "provider": "nope", "refresh_token": "x"}',
            100: old,
        }
        for place, line in bad.items():
            lines.insert(place, line)
        text = "\ufeff" + "\r\n\r\n".join(lines[:200]) + "\r\n" + "\n".join(lines[200:])
        before = (await broker.token("held"))["access_token"]

        async def send(what: bytes) -> list[dict[str, Any]]:
            headers = {"X-Broker-Key": broker.admin_key}
            async with broker.session.post(broker.url + "/v1/import", data=what, headers=headers) as answer:
                assert answer.status == 200
                return [json.loads(line) for line in (await answer.text()).splitlines()]

        half = text.encode()[: len(text) // 2]
        with contextlib.suppress(aiohttp.ClientError):
            await send(half[: half.rindex(b"\n") - 5])  # cut in the middle of a line
        first = await send(text.encode())
        assert len(first) == many + len(bad), "an outcome for each line that is not blank"
        assert [outcome["line"] for outcome in first] == sorted(outcome["line"] for outcome in first)
        refused = {outcome["line"] for outcome in first if outcome["status"] == "refused"}
        assert len(refused) == 8, "but for the id that comes twice and the old token, which changes nothing"
        second = await send(text.encode())
        assert {outcome["line"] for outcome in second if outcome["status"] == "refused"} == refused
        assert {outcome["status"] for outcome in second} == {"unchanged", "refused"}, "the id that comes twice, too"
        assert (await broker.token("held"))["access_token"] == before
        assert (await broker.ask("GET", "/v1/grants/thief"))[0] == 404
        assert (await broker.ask("GET", "/v1/grants/b499"))[0] == 200
        for grant in ("n1", "long"):
            assert (await broker.ask("GET", f"/v1/grants/{grant}"))[0] == 404
        assert ground.auth_server.reuse == 0
        await ground.redis.delete("broker:{0}:due:as")
