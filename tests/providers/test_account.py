"""Where a new access token is sent to learn whose it is, and what comes back."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from broker.model import TokenResponse
from broker.model.account import Account
from broker.providers import Dialect
from broker.providers.account import AccountUnknown, account_in, account_url
from broker.secret import Secret
from broker.settings.provider import Provider

EEN = "https://{httpsBaseUrl.hostname}/api/v3.0/users/self"
HOSTS = ("*.eagleeyenetworks.com",)


def dialect(**settings: Any) -> Dialect:
    """Return the dialect of a provider with these settings."""
    given = {"kind": "oauth2", "client_id": "c1", "token_endpoint": "https://id.acme.test/token", **settings}
    return Dialect.from_settings("p", Provider(**{name: value for name, value in given.items() if value is not None}))


def test_a_member_of_the_answer_names_the_host() -> None:
    """The host comes from the token response where the settings allow it."""
    answer = {"httpsBaseUrl": {"hostname": "api.c001.eagleeyenetworks.com", "port": 443}}
    assert account_url(EEN, answer, HOSTS) == "https://api.c001.eagleeyenetworks.com/api/v3.0/users/self"
    template = "https://api.acme.test/users/{id}"
    assert account_url(template, {"id": 7}, ()) == "https://api.acme.test/users/7"


@pytest.mark.parametrize(
    "host",
    [
        "evil.acme.test",
        "eagleeyenetworks.com.evil.acme.test",
        "evil.com/.eagleeyenetworks.com",
        "evil.com#.eagleeyenetworks.com",
        "evil.com:443",
        "user@api.eagleeyenetworks.com",
        "evil.com\\.eagleeyenetworks.com",
        "127.0.0.1",
        "..eagleeyenetworks.com",
        "",
        " api.eagleeyenetworks.com",
        "api.eagleeyenetworks.com\r\nx: y",
        None,
        True,
        ["api.eagleeyenetworks.com"],
    ],
)
def test_the_token_goes_to_no_other_host(host: object) -> None:
    """Whatever the answer names, the token goes to hosts of the settings' patterns alone."""
    with pytest.raises(AccountUnknown):
        account_url(EEN, {"httpsBaseUrl": {"hostname": host}}, HOSTS)


def test_a_host_of_the_answer_gets_no_token_over_plain_http() -> None:
    """Plain HTTP is for a server on this host alone."""
    template = "http://{host}:{port}/self"
    assert account_url(template, {"host": "127.0.0.1", "port": 80}, ("127.0.0.1",)) == "http://127.0.0.1:80/self"
    with pytest.raises(AccountUnknown, match="https"):
        account_url(template, {"host": "api.acme.test", "port": 80}, ("api.acme.test",))


def test_the_kinds_endpoint_is_for_the_kinds_server() -> None:
    """A token of a server in the settings is never sent to the vendor's host."""
    vendor = dialect(kind="cameramanager", token_endpoint=None)
    assert vendor.account_endpoint == "https://rest.cameramanager.com/rest/v2.3/users/self"
    assert vendor.account_member == "userId"
    assert dialect(kind="een-v3", token_endpoint=None).account_hosts == HOSTS
    assert dialect(kind="cameramanager").account_endpoint is None
    assert dialect(kind="een-v3").account_member is None
    own = dialect(kind="cameramanager", account_endpoint="https://cameras.acme.test/self")
    assert (own.account_endpoint, own.account_member) == ("https://cameras.acme.test/self", "userId")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"account_endpoint": "http://api.acme.test/self"}, "plain HTTP"),
        ({"account_endpoint": "https://api.acme.test/{}"}, "must hold members"),
        ({"account_endpoint": "https://api.acme.test/{a b}"}, "must hold members"),
        ({"account_endpoint": "{url}"}, "URL"),
        ({"account_endpoint": "https://user:{a}@api.acme.test/self"}, "without user"),
        ({"account_endpoint": "https://{host}/self"}, "name the hosts"),
        ({"account_member": "a..b"}, "pattern"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], why: str) -> None:
    """An endpoint that would send the token somewhere unknown, or a path that names nothing, does not start."""
    with pytest.raises(ValidationError, match=why):
        dialect(**settings)


@pytest.mark.parametrize(
    ("extra", "account"),
    [
        ({"info": {"uuid": "u1", "email": "j@acme.test"}}, Account("u1", "j@acme.test")),
        ({"info": {"uuid": 7}}, Account("7")),
        ({"info": {"uuid": True}}, None),
        ({"info": {"uuid": ""}}, None),
        ({"info": "u1"}, None),
        ({}, None),
    ],
)
def test_a_member_of_the_answer_is_the_account(extra: dict[str, object], account: Account | None) -> None:
    """Without an endpoint the member is looked for in the token response (DigitalOcean's `info.uuid`)."""
    answer = TokenResponse(Secret("a"), Secret("r"), "Bearer", None, None, None, extra)
    assert account_in(answer, dialect(account_member="info.uuid"), 0) == account
    assert account_in(answer, dialect(), 0) is None


def test_no_token_is_shown_as_a_part_of_the_account() -> None:
    """A server that repeats its tokens beside the account's id does not get them onto pages and into notices."""
    answer = TokenResponse(
        Secret("access-12345"),
        Secret("refresh-12345"),
        "Bearer",
        None,
        None,
        None,
        {"user": {"id": "u1", "name": "Jane access-12345", "email": "refresh-12345@acme.test"}},
    )
    account = account_in(answer, dialect(account_member="user.id"), 0)
    assert account == Account("u1", "[secret]@acme.test", None, "Jane [secret]")
