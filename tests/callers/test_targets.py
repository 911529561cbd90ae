"""Which path a request target means, below a path of `public_url` and in absolute form."""

from __future__ import annotations

import pytest

from broker.api.targets import is_api, is_browser, served_target, wants_page
from tests.conftest import RunningBroker


@pytest.mark.parametrize(
    ("prefix", "target", "served"),
    [
        ("", "/v1/grants", "/v1/grants"),
        ("", "http://host", "/"),
        ("", "http://host?x=1", "/?x=1"),
        ("", "https://user@host:1/a/b?c#d", "/a/b?c#d"),
        ("", "/a?to=http://host/b", "/a?to=http://host/b"),
        ("", "*", "*"),
        ("", "host:443", "host:443"),
        ("", "", ""),
        ("/broker", "/broker/", "/"),
        ("/broker", "/broker/?a", "/?a"),
        ("/broker", "/broker", "/broker"),
        ("/broker", "/brokers/v1/grants", "/brokers/v1/grants"),
        ("/broker", "/broker/v1/grants?a=/broker/", "/v1/grants?a=/broker/"),
        ("/broker", "http://host/broker/healthz", "/healthz"),
        ("/broker", "/broker/nothing", "/broker/nothing"),
        ("/broker", "/broker/broker/healthz", "/broker/broker/healthz"),
        ("/v1", "/v1/grants", "/v1/grants"),
        ("/v1", "/v1/v1/grants", "/v1/grants"),
        ("/login", "/login/callback?code=x", "/callback?code=x"),
        ("/login", "/login/login/abc", "/login/abc"),
        ("/login", "/login/abc", "/login/abc"),
        ("/session", "/session/session/end", "/session/end"),
        ("/session", "/session/end", "/session/end"),
        ("/callback", "/callback/callback?code=x", "/callback?code=x"),
        ("/callback", "/callback?code=x", "/callback?code=x"),
        ("/broker", "/broker/callback/acme?code=x", "/callback/acme?code=x"),
        ("/broker", "/callback/acme?code=x", "/callback/acme?code=x"),
        ("/login", "/login/callback/acme?code=x", "/callback/acme?code=x"),
        ("/callback", "/callback/callback/acme?code=x", "/callback/acme?code=x"),
        ("/callback", "/callback/acme?code=x", "/callback/acme?code=x"),
        ("/a.b", "/axb/healthz", "/axb/healthz"),
    ],
)
def test_served_target(prefix: str, target: str, served: str) -> None:
    """The path is cut off before a route only, whatever it begins like."""
    assert served_target(target, prefix) == served


async def test_every_route_is_one_of_both(broker: RunningBroker) -> None:
    """Each route is for programs or for browsers; the status page is the only one that decides by `Accept`."""
    paths = (await broker.get("/openapi.json"))["paths"]
    for path in paths:
        assert is_api(path) + is_browser(path) == (path != "/"), path
        assert is_api(path + "?a=b") == is_api(path)
        assert wants_page(path, "text/html") == (path == "/" or is_browser(path))
        assert wants_page(path, "*/*") == is_browser(path)
