"""Requests that are wrong, of every kind: refused with a sentence that says what to send instead."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from broker.secret import Sealer, parse_sealing_keys
from tests.bad_input.conftest import READER, Refused
from tests.conftest import RunningBroker

ID_ROUTES = [
    ("GET", "/v1/grants/{id}"),
    ("PUT", "/v1/grants/{id}"),
    ("DELETE", "/v1/grants/{id}"),
    ("GET", "/v1/grants/{id}/token"),
    ("POST", "/v1/grants/{id}/refresh"),
    ("POST", "/v1/grants/{id}/retry"),
    ("POST", "/v1/grants/{id}/login"),
    ("POST", "/v1/grants/{id}/login/complete"),
    ("GET", "/v1/grants/{id}/login/x"),
    ("GET", "/readyz/{id}"),
    ("GET", "/v1/grants/{id}/attempts"),
]
BAD_IDS = [
    "-a",
    ".a",
    "_a",
    "a%20b",
    "a%2Fb",
    "a%0Ab",
    "a%00",
    "%C3%A4",
    "a*",
    "a:b",
    "a" * 129,
    "%FF",
]
BODIES: list[tuple[str, bytes | None]] = [
    ("nothing", None),
    ("text", b"{"),
    ("a list", b"[]"),
    ("a number", b"5"),
    ("null", b"null"),
    ("not UTF-8", b'{"a": "\xff"}'),
    ("deep", b"[" * 20_000),
    ("NaN", b"NaN"),
]


async def test_grant_ids(refused: Refused) -> None:
    """An id outside the pattern is refused on every route that has one, before anybody is asked."""
    for method, route in ID_ROUTES:
        for grant_id in BAD_IDS:
            description, _ = await refused(400, method, route.replace("{id}", grant_id))
            assert description.startswith("a grant id is a letter or digit")


async def test_bodies(refused: Refused) -> None:
    """A body that is no JSON object is refused with the members that belong into it."""
    for method, path, member in (
        ("PUT", "/v1/grants/new", "refresh_token"),
        ("POST", "/v1/grants/new/login", "provider"),
        ("POST", "/v1/grants/new/login/complete", "redirected_to"),
    ):
        for name, body in BODIES:
            description, _ = await refused(400, method, path, data=body)
            assert member in description, name
        description, _ = await refused(413, method, path, data=b" " * (64 * 1024 + 1))
        assert "64 KiB" in description


async def test_members(refused: Refused) -> None:
    """Members of a wrong type or value are named; a secret among them is not repeated."""
    for body, word in (
        ({}, "provider"),
        ({"provider": "nope", "refresh_token": "SECRET-1"}, "cameramanager, een, acme"),
        ({"provider": ["acme"], "refresh_token": "SECRET-1"}, "provider"),
        ({"provider": "acme"}, "refresh_token"),
        ({"provider": "acme", "refresh_token": ""}, "refresh_token"),
        ({"provider": "acme", "refresh_token": " "}, "blank"),
        ({"provider": "acme", "refresh_token": "\r\n"}, "blank"),
        ({"provider": "acme", "refresh_token": "\u00a0\ufeff"}, "blank"),
        ({"provider": "acme", "refresh_token": "a\u00a0SECRET-1"}, "A.17"),
        ({"provider": "acme", "refresh_token": "a\nSECRET-1"}, "A.17"),
        ({"provider": "acme", "refresh_token": "\u00e4SECRET-1"}, "A.17"),
        ({"provider": "acme", "refresh_token": 5}, "refresh_token"),
        ({"provider": "acme", "refresh_token": {"SECRET-1": 1}}, "refresh_token"),
        ({"provider": "acme", "refresh_token": "\ud800SECRET-1"}, "refresh_token"),
        ({"provider": "acme", "refresh_token": "SECRET-1", "scope": ["a"]}, "scope"),
        ({"provider": "acme", "refresh_token": "SECRET-1", "scope": "\ud800"}, "scope"),
    ):
        description, _ = await refused(400, "PUT", "/v1/grants/new", data=json.dumps(body))
        assert word in description
        assert "SECRET-1" not in description
    for provider in ("nope", "", 5, None, ["acme"], "a/b"):
        description, _ = await refused(400, "POST", "/v1/grants/new/login", json={"provider": provider})
        assert "cameramanager, een, acme" in description
    description, _ = await refused(400, "POST", "/v1/providers/nope/retry")
    assert "cameramanager, een, acme" in description


@pytest.mark.parametrize(
    "pasted",
    [
        "",
        "x",
        "http://elsewhere.test/callback?code=a&state=b",
        "http://127.0.0.1:PORT/callback",
        "http://127.0.0.1:PORT/callback?code=a&code=b",
        "http://127.0.0.1:PORT/callback?code=a&state=b",
        "http://127.0.0.1:PORT/other?code=a",
        "a" * 20_000,
        "\ud800",
        5,
        None,
    ],
)
async def test_pasted_redirects(broker: RunningBroker, refused: Refused, pasted: Any) -> None:
    """Whatever is pasted instead of the redirect is refused, and the grant stays as it was."""
    text = pasted.replace("PORT", broker.url.rpartition(":")[2]) if isinstance(pasted, str) else pasted
    before = await broker.token("good")
    for state in (None, "x"):
        body = json.dumps({"redirected_to": text, "state": state})
        await refused(400, "POST", "/v1/grants/good/login/complete", data=body)
    assert (await broker.token("good"))["generation"] == before["generation"]


@pytest.mark.parametrize("pasted", ["http://[::1/callback", "http://127.0.0.1:99999/callback"])
async def test_pasted_text_that_is_no_url(broker: RunningBroker, pasted: str) -> None:
    """What only looks like a URL is refused like any other."""
    body = {"redirected_to": pasted, "state": "x"}
    try:
        status, _, _ = await broker.ask("POST", "/v1/grants/good/login/complete", json=body)
        assert status == 400
    finally:
        broker.log.truncate(0)
        broker.log.seek(0)


async def test_min_ttl(refused: Refused) -> None:
    """A min_ttl that is no number of seconds is refused, one that no refresh reaches with what it yields."""
    for wrong in ("-1", "x", "", "1e9", "1" * 30, "NaN", "1,5", " 1"):
        description, _ = await refused(400, "GET", f"/v1/grants/good/token?min_ttl={wrong}")
        assert "min_ttl=60" in description, wrong
    description, _ = await refused(400, "GET", "/v1/grants/good/token?min_ttl=86400")
    assert "86400" in description
    assert "3600" in description


async def test_if_match(broker: RunningBroker, refused: Refused) -> None:
    """A refresh names the token that was refused; without that, or with garbage, nothing is asked for."""
    await refused(428, "POST", "/v1/grants/good/refresh")
    for wrong in ("x", "*", "5", '"a"', '"1", "2"', '""', '"-1"', "\u00e4"):
        await refused(400, "POST", "/v1/grants/good/refresh", headers={"If-Match": wrong})
    status, body, _ = await broker.ask("POST", "/v1/grants/good/refresh", headers={"If-Match": f'"{"9" * 40}"'})
    assert status == 200, body
    assert body["generation"] == (await broker.token("good"))["generation"]


async def test_numbers_without_end(broker: RunningBroker, refused: Refused) -> None:
    """A number of thousands of digits, which Python refuses to read, is refused wherever a number is taken."""
    digits = "9" * 5000
    await refused(400, "POST", "/v1/grants/good/refresh", headers={"If-Match": f'"{digits}"'})
    await refused(400, "GET", f"/v1/grants/good/token?min_ttl={digits}")
    await refused(400, "GET", f"/v1/grants?limit={digits}")
    await refused(400, "PUT", "/v1/grants/new", data=f'{{"provider": {digits}}}')
    for headers in ({"If-None-Match": f'"{digits}"'}, {"Prefer": f"wait={digits}"}):
        assert (await broker.ask("GET", "/v1/grants/good/token", headers=headers))[0] == 200


async def test_conditions_and_preferences(broker: RunningBroker) -> None:
    """Garbage in optional headers is passed over, as RFC 9110 and 7240 want, and is never a long wait."""
    for headers in (
        {"If-None-Match": "garbage"},
        {"If-None-Match": ",,,"},
        {"Prefer": "wait=-1"},
        {"Prefer": "wait=x"},
        {"Prefer": "wait=99999999999999"},
        {"Prefer": ";;;="},
        {"Accept": "q=q;q=q,*/*;q=x"},
        {"Accept": "text/plain;q=9"},
        {"Accept": ","},
        {"Accept": "text/html"},
    ):
        status, body, _ = await broker.ask("GET", "/v1/grants/good/token", headers=headers)
        assert status == 200, headers
        assert "access_token" in body


async def test_listing(broker: RunningBroker, refused: Refused) -> None:
    """A bad state, limit or cursor of the list is refused, not passed over."""
    for query, word in (
        ("state=dead", "due"),
        ("limit=x", "limit"),
        ("limit=1.5", "limit"),
        ("limit=", "limit"),
        ("limit=0", "from 1 to 1000"),
        ("limit=-5", "from 1 to 1000"),
        ("limit=99999", "from 1 to 1000"),
        ("cursor=garbage", "cursor"),
        ("cursor=", "cursor"),
        ("cursor=%FF%00", "cursor"),
        ("cursor=" + "a" * 3000, "cursor"),
    ):
        description, _ = await refused(400, "GET", f"/v1/grants?{query}")
        assert word in description, query
    sealer = Sealer(parse_sealing_keys((broker.settings.sealing.keys_file or Path()).read_text()))
    for cursor in (
        "-1~0~good",
        "1.5~0~good",
        "0~nan~good",
        "0~inf~good",
        "0~1e999~good",
        "0~0x10~good",
        "0~1_0~good",
        "0~0~",
        "0~0~a b",
        "0~0",
        "~~",
        "",
        "x",
        "\u0661~0~good",
        "9" * 99 + "~0~good",
    ):
        for raw in (
            cursor.encode(),
            b"0~0~good",
            sealer.seal(cursor, "cursor", "admin"),
            sealer.seal("0~0~good", "cursor", "else"),
        ):
            sealed = base64.urlsafe_b64encode(raw).decode().rstrip("=")
            description, _ = await refused(400, "GET", f"/v1/grants?cursor={sealed}")
            assert "cursor" in description, cursor
        description, _ = await refused(400, "GET", "/v1/grants", params={"cursor": cursor})
        assert "cursor" in description, cursor
    good = base64.urlsafe_b64encode(sealer.seal("0~0~good", "cursor", "admin")).decode()
    assert (await broker.ask("GET", f"/v1/grants?cursor={good}"))[0] == 200
    for query in ("limit=1", "limit=1000", "provider=nope", "unknown=1"):
        assert (await broker.ask("GET", f"/v1/grants?{query}"))[0] == 200, query


async def test_keys(refused: Refused) -> None:
    """No key and an unknown one are 401 with the scheme to use, on every route that needs one."""
    for method, route in [
        *ID_ROUTES,
        ("GET", "/v1/grants"),
        ("GET", "/v1/providers"),
        ("POST", "/v1/import"),
        ("POST", "/v1/providers/acme/retry"),
        ("POST", "/v1/notify/test"),
    ]:
        path = route.replace("{id}", "good")
        for headers in (
            {"X-Broker-Key": "unknown"},
            {"X-Broker-Key": ""},
            {"X-Broker-Key": "\u00e4\u20ac"},
            {"X-Broker-Key": "x" * 7000},
        ):
            description, fields = await refused(401, method, path, headers=headers)
            assert fields["WWW-Authenticate"].startswith("Bearer"), path
            assert "unknown" not in description.split("unknown key")[-1]


async def test_authorization_headers(broker: RunningBroker) -> None:
    """An Authorization header of another scheme, or of none, is no key."""
    for value in ("Basic YWRtaW46YWRtaW4=", "Bearer", "Bearer  ", "x", "", "Bearer a b", "\u00e4"):
        async with broker.session.get(broker.url + "/v1/grants/good/token", headers={"Authorization": value}) as answer:
            assert answer.status == 401, value
            assert set(await answer.json()) == {"error", "error_description"}


async def test_rights(refused: Refused) -> None:
    """A known caller is told what right it lacks, in the same words whether the grant exists or not."""
    reader = {"headers": {"X-Broker-Key": READER}}
    for grant in ("good", "nobody-knows"):
        for method, route in ID_ROUTES:
            if (grant, route) in {("good", "/v1/grants/{id}/token"), ("good", "/readyz/{id}")}:
                continue
            description, _ = await refused(403, method, route.replace("{id}", grant), **reader)
            assert "right on this grant id" in description
    await refused(403, "GET", "/v1/grants/good/token?min_ttl=5", **reader)
    for method, path in (
        ("GET", "/v1/grants"),
        ("GET", "/v1/providers"),
        ("POST", "/v1/import"),
        ("POST", "/v1/providers/acme/retry"),
        ("POST", "/v1/notify/test"),
    ):
        description, _ = await refused(403, method, path, **reader)
        assert "admin" in description


async def test_unknown_grants(refused: Refused) -> None:
    """That a grant does not exist is said to whoever may ask for it, on every route."""
    reader = {"headers": {"X-Broker-Key": READER}}
    await refused(404, "GET", "/v1/grants/good-but-gone/token", **reader)
    await refused(404, "GET", "/readyz/gone")
    for method, path, options in (
        ("GET", "", {}),
        ("DELETE", "", {}),
        ("GET", "/attempts", {}),
        ("GET", "/authorization", {}),
        ("GET", "/token", {}),
        ("POST", "/retry", {}),
        ("GET", "/login/x", {}),
        ("POST", "/refresh", {"headers": {"If-Match": '"1"'}}),
    ):
        await refused(404, method, f"/v1/grants/gone{path}", **options)


async def test_routes(refused: Refused) -> None:
    """A path that nothing answers is 404, in JSON."""
    for path in (
        "/v2",
        "/v1",
        "/v1/grants/",
        "/v1/grants/good/token/",
        "/v1//grants",
        "/%2e%2e/etc/passwd",
        "/login",
        "/favicon.ico",
    ):
        await refused(404, "GET", path)


async def test_import_lines(broker: RunningBroker, sandbox: Any) -> None:
    """A line of an import that cannot be used is answered in its place, and the good ones beside it are taken."""
    token = sandbox.rotating.issue().refresh_token
    lines = [
        b"",
        b"{",
        b"[]",
        b"5",
        b"\xff",
        b'{"grant_id": 5}',
        b'{"grant_id": "a b"}',
        b'{"grant_id": "n1"}',
        b"[" * 30_000,
        b'{"grant_id": "n1", "provider": "nope", "refresh_token": "x"}',
        b" " * 70_000,
        b'{"grant_id": "n1", "provider": "acme", "refresh_token": "\\ud800"}',
        json.dumps({"grant_id": "n1", "provider": "acme", "refresh_token": token}).encode(),
    ]
    async with broker.session.post(
        broker.url + "/v1/import", data=b"\r\n".join(lines), headers={"X-Broker-Key": broker.admin_key}
    ) as answer:
        outcomes = [json.loads(line) for line in (await answer.text()).splitlines()]
    assert [line["status"] for line in outcomes[:-1]] == ["refused"] * (len(outcomes) - 1)
    assert outcomes[-1] == {"line": 13, "grant_id": "n1", "status": "created"}
    assert all(line["error_description"] for line in outcomes[:-1])
    assert len(outcomes) in {11, 12}, outcomes
