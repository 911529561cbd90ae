"""What each provider speaks: its settings, filled in by its kind.

Owns the facts about Eagle Eye's two servers and the defaults of RFC 6749 and OpenID Connect servers. Pure: no I/O,
no clock. Knows nothing of requests, and of the client secret only whether there is one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.model import OldToken
    from broker.settings import Provider

AuthMethod = Literal["client_secret_basic", "client_secret_post", "none"]
Parameters = Literal["body", "query"]

WINDOW = (0.70, 0.85)
"""Fraction of a token's life after which it is refreshed, unless the settings say otherwise."""
LATE_WINDOW = (0.92, 0.96)
"""The same where a refresh invalidates the old token: every refresh costs callers a token that was still valid."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What an issuer's discovery document says of itself (OIDC Discovery §3, RFC 8414 §2, RFC 9207 §3)."""

    issuer: str
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    revocation_endpoint: str | None = None
    iss_parameter_supported: bool = False
    body_credentials_only: bool = False
    """The issuer supports `client_secret_post` and not `client_secret_basic`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """The defaults of a kind, where the settings are silent."""

    scope: str | None = None
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    revocation_endpoint: str | None = None
    logout_endpoint: str | None = None
    account_endpoint: str | None = None
    account_member: str | None = None
    account_hosts: tuple[str, ...] = ()
    discovery: bool = False
    pkce: bool = True
    state_may_be_missing: bool = False
    encode_redirect_uri: bool = True
    scope_on_refresh: bool = False
    scope_on_exchange: bool = False
    reuse_grace: timedelta | Literal["forever"] = timedelta(0)
    old_token: OldToken = "survives"
    default_lifetime: timedelta = timedelta(hours=1)
    lifetime: timedelta | None = None
    response_path: str | None = None
    keep_from_callback: tuple[str, ...] = ()
    idle_limit: timedelta | None = None
    absolute_limit: timedelta | None = None
    dead_statuses: tuple[int, ...] = ()


_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "cameramanager": _Kind(
            scope="write",
            authorization_endpoint="https://rest.cameramanager.com/oauth/authorize",
            token_endpoint="https://rest.cameramanager.com/oauth/token",
            logout_endpoint="https://rest.cameramanager.com/rest/v2.0/users/self/tokens/current",
            # developer.cameramanager.com, "User API".
            account_endpoint="https://rest.cameramanager.com/rest/v2.3/users/self",
            account_member="userId",
            pkce=False,
            # The vendor's guide shows only `code` in the response.
            state_may_be_missing=True,
            scope_on_refresh=True,
            scope_on_exchange=True,
            # "The refresh_token will work until the user logs out."
            reuse_grace="forever",
            default_lifetime=timedelta(seconds=43_199),
        ),
        "een-v3": _Kind(
            scope="vms.all",
            authorization_endpoint="https://auth.eagleeyenetworks.com/oauth2/authorize",
            token_endpoint="https://auth.eagleeyenetworks.com/oauth2/token",
            revocation_endpoint="https://auth.eagleeyenetworks.com/oauth2/revoke",
            account_endpoint="https://{httpsBaseUrl.hostname}/api/v3.0/users/self",
            account_member="id",
            account_hosts=("*.eagleeyenetworks.com",),
            encode_redirect_uri=False,
            old_token="dies",
            default_lifetime=timedelta(hours=12),
            idle_limit=timedelta(days=14),
            absolute_limit=timedelta(days=90),
            # It responds 401 where RFC 6749 §5.2 says 400 `invalid_grant`.
            dead_statuses=(401,),
        ),
        "oauth2": _Kind(),
        "oidc": _Kind(scope="openid offline_access", discovery=True),
    }
)


class _Account(TypedDict):
    account_endpoint: str | None
    account_member: str | None
    account_hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A provider's settings filled in by its kind. Durations are milliseconds."""

    name: str
    kind: Literal["cameramanager", "een-v3", "oauth2", "oidc"]
    client_id: str
    scope: str | None
    """Requested at login; on refresh and code exchange only where the next two say so."""
    scope_on_refresh: bool
    scope_on_exchange: bool
    issuer: str | None
    """What `iss` and a discovery document must equal, as spelled in the settings."""
    authorization_endpoint: str | None
    token_endpoint: str | None
    """None only where `discovery` has yet to find it."""
    revocation_endpoint: str | None
    logout_endpoint: str | None
    """Where DELETE with the valid access token logs out; it precedes `revocation_endpoint`."""
    account_endpoint: str | None
    """Where GET with a new access token says whose it is; may hold members of the token response, in braces."""
    account_member: str | None
    """Dotted path to the account's id: in the account endpoint's response, or in the token response without one."""
    account_hosts: tuple[str, ...]
    """Patterns of the hosts that such a member may name."""
    discovery: bool
    allow_http: bool
    """Whether discovery may name endpoints on plain http beyond loopback."""
    iss_parameter_supported: bool
    """RFC 9207 §3: a callback without `iss` must be rejected. Known only after discovery."""
    token_endpoint_auth_method: AuthMethod
    auth_method_is_default: bool
    """The settings are silent, so discovery may choose."""
    basic_encoding: Literal["form", "plain"]
    parameters: Parameters
    pkce: bool
    state_may_be_missing: bool
    encode_redirect_uri: bool
    authorization_params: Mapping[str, str]
    token_params: Mapping[str, str]
    reuse_grace_ms: int | None
    """How long a spent refresh token may be redeemed again; None: for ever."""
    old_token: OldToken
    default_lifetime_ms: int
    lifetime_ms: int | None
    """What every access token lives, whatever an answer says."""
    response_path: str | None
    """Where in an answer the token's members stand, names joined by dots."""
    keep_from_callback: tuple[str, ...]
    """Parameters of the callback that callers get as members of the token answer."""
    idle_limit_ms: int | None
    absolute_limit_ms: int | None
    dead_statuses: frozenset[int]
    window: tuple[float, float]

    @classmethod
    def from_settings(cls, name: str, provider: Provider, window: tuple[float, float] | None = None) -> Dialect:
        """Make the dialect of the provider *name*; *window* is `settings.refresh.window`, which holds for all kinds."""
        kind = _KINDS[provider.kind]
        old_token: OldToken = _first(provider.old_token, kind.old_token)
        has_secret = provider.client_secret is not None or provider.client_secret_file is not None
        grace = _first(provider.reuse_grace, kind.reuse_grace)
        return cls(
            name=name,
            kind=provider.kind,
            client_id=provider.client_id,
            scope=_first(provider.scope, kind.scope),
            scope_on_refresh=_first(provider.scope_on_refresh, kind.scope_on_refresh),
            scope_on_exchange=kind.scope_on_exchange,
            issuer=provider.issuer,
            authorization_endpoint=_first(provider.authorization_endpoint, kind.authorization_endpoint),
            token_endpoint=_first(provider.token_endpoint, kind.token_endpoint),
            revocation_endpoint=_first(provider.revocation_endpoint, kind.revocation_endpoint),
            logout_endpoint=_first(provider.logout_endpoint, kind.logout_endpoint),
            **_account(provider, kind),
            discovery=kind.discovery,
            allow_http=provider.allow_http,
            iss_parameter_supported=False,
            token_endpoint_auth_method=_first(
                provider.token_endpoint_auth_method, "client_secret_basic" if has_secret else "none"
            ),
            auth_method_is_default=provider.token_endpoint_auth_method is None,
            basic_encoding=_first(provider.basic_encoding, "form"),
            # A refresh token does not belong in a URL, so "query", CameraManager's documented form, is a setting.
            parameters=_first(provider.parameters, "body"),
            pkce=_first(provider.pkce, kind.pkce),
            state_may_be_missing=_first(
                None if provider.state is None else provider.state == "optional", kind.state_may_be_missing
            ),
            encode_redirect_uri=_first(
                None if provider.redirect_uri_encoding is None else provider.redirect_uri_encoding == "percent",
                kind.encode_redirect_uri,
            ),
            authorization_params=MappingProxyType(dict(provider.authorization_params)),
            token_params=MappingProxyType(dict(provider.token_params)),
            reuse_grace_ms=None if grace == "forever" else _ms(grace),
            old_token=old_token,
            default_lifetime_ms=_ms(_first(provider.default_lifetime, kind.default_lifetime)),
            lifetime_ms=_ms_or_none(_first(provider.lifetime, kind.lifetime)),
            response_path=_first(provider.response_path, kind.response_path),
            keep_from_callback=tuple(_first(provider.keep_from_callback, kind.keep_from_callback)),
            idle_limit_ms=_ms_or_none(_first(provider.idle_limit, kind.idle_limit)),
            absolute_limit_ms=_ms_or_none(_first(provider.absolute_limit, kind.absolute_limit)),
            dead_statuses=frozenset(_first(provider.dead_statuses, kind.dead_statuses)),
            window=_first(window, LATE_WINDOW if old_token == "dies" else WINDOW),
        )

    def with_metadata(self, metadata: Metadata) -> Dialect:
        """Return this dialect with what *metadata* adds; the settings win."""
        method = self.token_endpoint_auth_method
        # A token endpoint from the settings is used without discovery, so it must not depend on it.
        open_to_advice = self.auth_method_is_default and self.token_endpoint is None
        if open_to_advice and method == "client_secret_basic" and metadata.body_credentials_only:
            method = "client_secret_post"
        return replace(
            self,
            authorization_endpoint=_first(self.authorization_endpoint, metadata.authorization_endpoint),
            token_endpoint=_first(self.token_endpoint, metadata.token_endpoint),
            revocation_endpoint=_first(self.revocation_endpoint, metadata.revocation_endpoint),
            iss_parameter_supported=metadata.iss_parameter_supported,
            token_endpoint_auth_method=method,
        )


def _account(provider: Provider, kind: _Kind) -> _Account:
    """Return where a provider says whose a token is; the kind's endpoint gets only tokens of the kind's server."""
    endpoint = _first(provider.account_endpoint, kind.account_endpoint if provider.token_endpoint is None else None)
    return {
        "account_endpoint": endpoint,
        "account_member": _first(provider.account_member, kind.account_member if endpoint else None),
        "account_hosts": tuple(host.lower() for host in _first(provider.account_hosts, kind.account_hosts)),
    }


def _first(given: _T | None, default: _T) -> _T:
    return default if given is None else given


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


def _ms_or_none(duration: timedelta | None) -> int | None:
    return None if duration is None else _ms(duration)
