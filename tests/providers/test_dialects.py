"""The dialects: what a kind fills in, and what the settings override."""

from __future__ import annotations

from typing import Any

import pytest

from broker.providers.dialects import Dialect, Metadata
from broker.providers.lifetimes import ending
from broker.settings import Provider

DAY = 86_400_000


def dialect(window: tuple[float, float] | None = None, **settings: Any) -> Dialect:
    """Make the dialect of such settings."""
    provider = Provider.model_validate({"client_id": "id", "client_secret": "s", **settings})
    return Dialect.from_settings("acme", provider, window)


def test_cameramanager() -> None:
    """CameraManager as its vendor documents it."""
    filled = dialect(kind="cameramanager")
    assert filled.authorization_endpoint == "https://rest.cameramanager.com/oauth/authorize"
    assert filled.token_endpoint == "https://rest.cameramanager.com/oauth/token"
    assert filled.logout_endpoint == "https://rest.cameramanager.com/rest/v2.0/users/self/tokens/current"
    assert filled.revocation_endpoint is None
    assert (filled.scope, filled.scope_on_refresh, filled.scope_on_exchange) == ("write", True, True)
    assert (filled.pkce, filled.state_may_be_missing, filled.parameters) == (False, True, "body")
    assert (filled.reuse_grace_ms, filled.old_token, filled.default_lifetime_ms) == (None, "survives", 43_199_000)
    assert filled.window == (0.70, 0.85)
    assert ending(filled, None, granted_at=1, answered_at=2).reauthorize_by is None


def test_een_v3() -> None:
    """Eagle Eye V3: rotation, invalidation of the old token, and both limits."""
    filled = dialect(kind="een-v3")
    assert filled.token_endpoint == "https://auth.eagleeyenetworks.com/oauth2/token"
    assert filled.revocation_endpoint == "https://auth.eagleeyenetworks.com/oauth2/revoke"
    assert (filled.scope, filled.scope_on_refresh, filled.scope_on_exchange) == ("vms.all", True, True)
    assert filled.pkce
    assert (filled.encode_redirect_uri, filled.dead_statuses, filled.old_token) == (False, frozenset({401}), "dies")
    assert (filled.reuse_grace_ms, filled.default_lifetime_ms) == (0, 12 * 3_600_000)
    assert filled.window == (0.92, 0.96)
    assert ending(filled, None, granted_at=0, answered_at=0).reauthorize_by == 14 * DAY
    assert ending(filled, None, granted_at=0, answered_at=80 * DAY).reauthorize_by == 90 * DAY


def test_oauth2_and_oidc() -> None:
    """The generic kinds follow the RFCs."""
    plain = dialect(kind="oauth2", token_endpoint="https://as.test/token")
    assert (plain.pkce, plain.reuse_grace_ms, plain.default_lifetime_ms) == (True, 0, 3_600_000)
    assert (plain.scope, plain.discovery, plain.authorization_endpoint) == (None, False, None)
    found = dialect(kind="oidc", issuer="https://as.test")
    assert (found.scope, found.discovery, found.token_endpoint) == ("openid offline_access", True, None)


def test_overriding_one_endpoint_keeps_the_others() -> None:
    """A kind's endpoints are replaced one by one."""
    filled = dialect(kind="een-v3", token_endpoint="https://proxy.test/token")
    assert filled.token_endpoint == "https://proxy.test/token"
    assert filled.authorization_endpoint == "https://auth.eagleeyenetworks.com/oauth2/authorize"


def test_every_field_can_be_set() -> None:
    """The settings win over the kind, falsy values included."""
    filled = dialect(
        kind="een-v3",
        scope="",
        pkce=False,
        state="optional",
        redirect_uri_encoding="percent",
        scope_on_refresh=False,
        scope_on_exchange=False,
        reuse_grace="forever",
        old_token="survives",
        default_lifetime="5m",
        idle_limit="1d",
        absolute_limit="2d",
        dead_statuses=[],
        basic_encoding="plain",
        token_endpoint_auth_method="client_secret_post",
        parameters="query",
        authorization_params={"prompt": "consent"},
        token_params={"a": "b"},
    )
    assert (filled.scope, filled.pkce, filled.state_may_be_missing, filled.encode_redirect_uri) == (
        "",
        False,
        True,
        True,
    )
    assert (filled.scope_on_refresh, filled.reuse_grace_ms, filled.old_token) == (False, None, "survives")
    assert not filled.scope_on_exchange
    assert (filled.default_lifetime_ms, filled.idle_limit_ms, filled.absolute_limit_ms) == (300_000, DAY, 2 * DAY)
    assert (filled.dead_statuses, filled.basic_encoding, filled.parameters) == (frozenset(), "plain", "query")
    assert filled.token_endpoint_auth_method == "client_secret_post"
    assert (filled.authorization_params, filled.token_params) == ({"prompt": "consent"}, {"a": "b"})
    assert filled.window == (0.70, 0.85)


def test_reuse_grace_is_a_duration() -> None:
    """A finite grace is milliseconds."""
    assert dialect(kind="cameramanager", reuse_grace="30s").reuse_grace_ms == 30_000


@pytest.mark.parametrize("kind", ["cameramanager", "een-v3"])
def test_an_explicit_window_holds_for_all(kind: str) -> None:
    """`refresh.window` holds even where a refresh invalidates the old token."""
    assert dialect((0.5, 0.6), kind=kind).window == (0.5, 0.6)


def test_without_a_secret_the_client_is_public() -> None:
    """Without a secret and a method in the settings the method is `none`."""
    assert dialect(kind="een-v3", client_secret=None).token_endpoint_auth_method == "none"
    assert dialect(kind="een-v3").token_endpoint_auth_method == "client_secret_basic"


def test_discovered_endpoints_fill_gaps_only() -> None:
    """The settings win over discovery, which adds what they lack."""
    metadata = Metadata(
        issuer="https://as.test",
        authorization_endpoint="https://as.test/found",
        token_endpoint="https://as.test/found",
        revocation_endpoint="https://as.test/found",
        iss_parameter_supported=True,
        body_credentials_only=True,
    )
    filled = dialect(kind="oidc", issuer="https://as.test", revocation_endpoint="https://as.test/set")
    found = filled.with_metadata(metadata)
    assert (found.authorization_endpoint, found.token_endpoint) == ("https://as.test/found", "https://as.test/found")
    assert (found.revocation_endpoint, found.iss_parameter_supported) == ("https://as.test/set", True)
    assert found.token_endpoint_auth_method == "client_secret_post"


@pytest.mark.parametrize(
    "more", [{"token_endpoint_auth_method": "client_secret_basic"}, {"token_endpoint": "https://as.test/set"}]
)
def test_discovery_does_not_overrule_how_we_authenticate(more: dict[str, Any]) -> None:
    """A method from the settings stays, and so does the default with a token endpoint from the settings."""
    filled = dialect(kind="oidc", issuer="https://as.test", **more)
    found = filled.with_metadata(Metadata(issuer="https://as.test", body_credentials_only=True))
    assert found.token_endpoint_auth_method == "client_secret_basic"


def test_a_window_of_its_own() -> None:
    """A provider's window holds for it alone, whatever `refresh.window` says."""
    given = {"kind": "een-v3", "client_id": "id", "window": [0.8, 0.95]}
    assert Dialect.from_settings("acme", Provider.model_validate(given), (0.5, 0.6)).window == (0.8, 0.95)
