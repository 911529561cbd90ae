"""What each provider speaks: its settings, and the defaults of RFC 6749 where they are silent.

Pure: no I/O, no clock. Knows nothing of kinds, which have filled in the settings already, nor of requests, and of the
client secret only whether there is one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.model import OldToken
    from broker.providers.request_form import Body, Parameters
    from broker.settings import Provider

AuthMethod = Literal["client_secret_basic", "client_secret_post", "none"]

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
class Dialect:
    """A provider's settings filled in by its kind. Durations are milliseconds."""

    name: str
    kind: str
    client_id: str
    scope: str | None
    """Requested at login; on refresh and code exchange only where the next two say so."""
    scope_on_refresh: bool
    scope_on_exchange: bool
    issuer: str | None
    """What `iss` must equal: as spelled in the settings, and after discovery in the document (see `issuers`)."""
    authorization_endpoint: str | None
    token_endpoint: str | None
    """None only where `discovery` has yet to find it."""
    refresh_endpoint: str | None
    """Where refreshes go, if not to the token endpoint."""
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
    confirm_login: bool
    """Nothing is kept before the person confirms the account, even where the callback has a state."""
    encode_redirect_uri: bool
    authorization_params: Mapping[str, str]
    token_params: Mapping[str, str]
    exchange_params: Mapping[str, str]
    refresh_params: Mapping[str, str]
    body: Body
    code_parameter: str
    redirect_uri: str | None
    """Sent instead of the broker's own."""
    own_redirect_path: bool
    """The browser comes back to `/callback/NAME`, which no other provider is sent to."""
    scope_separator: str
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
    """They mean a dead refresh token, or a wrong client, where no error code says which."""
    dead_errors: tuple[str, ...]
    busy_errors: tuple[str, ...]
    registration_errors: tuple[str, ...]
    """Words of the three are looked for in every text of a refusal, in any case."""
    window: tuple[float, float]

    @classmethod
    def from_settings(cls, name: str, provider: Provider, window: tuple[float, float] | None = None) -> Dialect:
        """Make the dialect of the provider *name*.

        *window* is `settings.refresh.window`, which holds for every provider without a window of its own.
        """
        old_token: OldToken = provider.old_token or "survives"
        grace = provider.reuse_grace or timedelta(0)
        separator = provider.scope_separator or " "
        scope = None if provider.scope is None else _joined(provider.scope, separator)
        return cls(
            name=name,
            kind=provider.kind,
            client_id=provider.client_id,
            scope=scope,
            scope_on_refresh=provider.scope_on_refresh is True,
            scope_on_exchange=provider.scope_on_exchange is True,
            issuer=provider.issuer,
            authorization_endpoint=provider.authorization_endpoint,
            token_endpoint=provider.token_endpoint,
            refresh_endpoint=provider.refresh_endpoint,
            revocation_endpoint=provider.revocation_endpoint,
            logout_endpoint=provider.logout_endpoint,
            account_endpoint=provider.account_endpoint,
            account_member=provider.account_member,
            account_hosts=tuple(host.lower() for host in provider.account_hosts or ()),
            discovery=provider.discovery,
            allow_http=provider.allow_http,
            iss_parameter_supported=False,
            token_endpoint_auth_method=_auth_method(provider),
            auth_method_is_default=provider.token_endpoint_auth_method is None,
            basic_encoding=provider.basic_encoding or "form",
            parameters=provider.place,
            pkce=provider.pkce is not False,
            state_may_be_missing=provider.state == "optional",
            confirm_login=provider.confirm_login is True,
            encode_redirect_uri=provider.redirect_uri_encoding != "plain",
            authorization_params=_filled(provider.authorization_params, provider.client_id, scope),
            token_params=_filled(provider.token_params, provider.client_id, scope),
            exchange_params=_filled(provider.exchange_params, provider.client_id, scope),
            refresh_params=_filled(provider.refresh_params, provider.client_id, scope),
            body=provider.body or "form",
            code_parameter=provider.code_parameter or "code",
            redirect_uri=provider.redirect_uri,
            own_redirect_path=provider.redirect_path == "provider",
            scope_separator=separator,
            reuse_grace_ms=None if grace == "forever" else _ms(grace),
            old_token=old_token,
            default_lifetime_ms=_ms(provider.default_lifetime or timedelta(hours=1)),
            lifetime_ms=_ms_or_none(provider.lifetime),
            response_path=provider.response_path,
            keep_from_callback=tuple(provider.keep_from_callback or ()),
            idle_limit_ms=_ms_or_none(provider.idle_limit),
            absolute_limit_ms=_ms_or_none(provider.absolute_limit),
            dead_statuses=frozenset(provider.dead_statuses or ()),
            dead_errors=tuple(provider.dead_errors or ()),
            busy_errors=tuple(provider.busy_errors or ()),
            registration_errors=tuple(provider.registration_errors or ()),
            window=provider.window or _first(window, LATE_WINDOW if old_token == "dies" else WINDOW),
        )

    def joined(self, scope: str) -> str:
        """Return *scope* with its parts separated as the provider wants."""
        return _joined(scope, self.scope_separator)

    def with_metadata(self, metadata: Metadata) -> Dialect:
        """Return this dialect with what *metadata* adds; the settings win."""
        method = self.token_endpoint_auth_method
        # A token endpoint from the settings is used without discovery, so it must not depend on it.
        open_to_advice = self.auth_method_is_default and self.token_endpoint is None
        if open_to_advice and method == "client_secret_basic" and metadata.body_credentials_only:
            method = "client_secret_post"
        return replace(
            self,
            issuer=metadata.issuer,
            authorization_endpoint=_first(self.authorization_endpoint, metadata.authorization_endpoint),
            token_endpoint=_first(self.token_endpoint, metadata.token_endpoint),
            revocation_endpoint=_first(self.revocation_endpoint, metadata.revocation_endpoint),
            iss_parameter_supported=metadata.iss_parameter_supported,
            token_endpoint_auth_method=method,
        )


def _first(given: _T | None, default: _T) -> _T:
    return default if given is None else given


def _auth_method(provider: Provider) -> AuthMethod:
    has_secret = provider.client_secret is not None or provider.client_secret_file is not None
    return provider.token_endpoint_auth_method or ("client_secret_basic" if has_secret else "none")


def _joined(scope: str, separator: str) -> str:
    return scope if separator == " " else separator.join(scope.split())


def _filled(params: Mapping[str, str], client_id: str, scope: str | None) -> Mapping[str, str]:
    """Return *params*, `{client_id}` and `{scope}` replaced: for providers that call these parameters otherwise."""
    values = {"{client_id}": client_id, "{scope}": scope or ""}
    return MappingProxyType({name: values.get(value, value) for name, value in params.items()})


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


def _ms_or_none(duration: timedelta | None) -> int | None:
    return None if duration is None else _ms(duration)
