"""The settings of one provider: an authorization server and the client registration of this broker there.

Owns their schema, defaults and cross-checks. `providers.dialects` fills in what the kind of a provider supplies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from broker.settings.values import (
    AccountUrl,
    CallbackParameter,
    Grace,
    PositiveDuration,
    ResponsePath,
    Section,
    WebUrl,
    plain_beyond_loopback,
    require_account_url,
)


class Provider(Section):
    """An authorization server and this broker's client registration there.

    The dialect of `kind` fills in what is not given.
    """

    kind: Literal["cameramanager", "een-v3", "oauth2", "oidc"] = Field(
        description="dialect of the authorization server; it supplies the endpoints and other defaults"
    )
    client_id: str = Field(min_length=1, description="client identifier of this broker's registration")
    client_secret_file: Path | None = Field(default=None, description="file (mode 0600) with the client secret")
    client_secret: SecretStr | None = Field(
        default=None, min_length=1, description="the client secret itself; prefer client_secret_file"
    )
    scope: str | None = Field(
        default=None, description="scope to request at login, and at each refresh if scope_on_refresh is true"
    )
    allow_http: bool = Field(
        default=False, description="confirm that this provider's endpoints may use plain HTTP beyond loopback"
    )
    issuer: WebUrl | None = Field(
        default=None,
        description="oidc: issuer exactly as its discovery document spells it; other kinds: expected value of iss "
        "in the callback (RFC 9207)",
    )
    authorization_endpoint: WebUrl | None = Field(
        default=None, description="URL to which a login sends the browser (RFC 6749 §3.1)"
    )
    token_endpoint: WebUrl | None = Field(
        default=None, description="URL of the token endpoint (RFC 6749 §3.2); oauth2 requires it"
    )
    revocation_endpoint: WebUrl | None = Field(
        default=None, description="URL where logout revokes the refresh token (RFC 7009)"
    )
    logout_endpoint: WebUrl | None = Field(
        default=None,
        description="URL to which logout sends DELETE with the live access token, instead of using revocation_endpoint",
    )
    account_endpoint: AccountUrl | None = Field(
        default=None,
        description="URL that says whose a new access token is, asked once after a login without an id_token; "
        "{a.b} is a member of the token response",
    )
    account_member: str | None = Field(
        default=None,
        pattern=r"^[^.\s]+(\.[^.\s]+)*$",
        description="dotted path to the account's id in the response of account_endpoint (sub by default), or in the "
        "token response where there is no account_endpoint",
    )
    account_hosts: list[str] | None = Field(
        default=None,
        description="patterns of the hosts that may get the token where account_endpoint takes its host from the token "
        "response",
    )
    token_endpoint_auth_method: Literal["client_secret_basic", "client_secret_post", "none"] | None = Field(
        default=None,
        description="how the client authenticates (RFC 7591 §2); by default client_secret_basic, or none without a "
        "secret; oidc: discovery may change the default",
    )
    basic_encoding: Literal["form", "plain"] | None = Field(
        default=None,
        description="HTTP Basic with form-encoded client id and secret (RFC 6749 §2.3.1), or with both as they are",
    )
    parameters: Literal["body", "query"] | None = Field(
        default=None, description="part of the token request that carries its parameters"
    )
    pkce: bool | None = Field(default=None, description="send a code_challenge by S256 at login (RFC 7636)")
    state: Literal["required", "optional"] | None = Field(
        default=None,
        description="optional: a callback may lack state; then the cookie alone binds the login to the browser",
    )
    redirect_uri_encoding: Literal["percent", "plain"] | None = Field(
        default=None, description='plain: leave ":" and "/" of redirect_uri unencoded in the authorization URL'
    )
    scope_on_refresh: bool | None = Field(default=None, description="send scope with each refresh")
    authorization_params: dict[str, str] = Field(
        default={}, description="further parameters of the authorization URL; they replace none of the broker's own"
    )
    token_params: dict[str, str] = Field(
        default={}, description="further parameters of every token request; they replace none of the broker's own"
    )
    reuse_grace: Grace | None = Field(
        default=None, description='how long the provider accepts a spent refresh token again, or "forever"'
    )
    old_token: Literal["survives", "dies"] | None = Field(
        default=None,
        description="what a refresh does to the previous access token; dies: refresh late, and advertise expires_in "
        "only up to the planned refresh",
    )
    default_lifetime: PositiveDuration | None = Field(
        default=None, description="lifetime of an access token whose response says none"
    )
    lifetime: PositiveDuration | None = Field(
        default=None, description="lifetime of every access token, whatever its response says"
    )
    response_path: ResponsePath | None = Field(
        default=None,
        description='where in a response the token\'s members stand, such as "authed_user"; where it is missing, the '
        "top level is read",
    )
    keep_from_callback: list[CallbackParameter] | None = Field(
        default=None, description="parameters of the callback that callers get as members of the token response"
    )
    idle_limit: PositiveDuration | None = Field(
        default=None, description="the provider ends a refresh token that nobody uses for this long"
    )
    absolute_limit: PositiveDuration | None = Field(
        default=None, description="the provider ends a grant this long after its login"
    )
    dead_statuses: list[Annotated[int, Field(ge=400, le=599)]] | None = Field(
        default=None, description="HTTP statuses that mean a dead refresh token, whatever the error code"
    )

    @field_validator("client_secret")
    @classmethod
    def _one_secret(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if secret is not None and info.data.get("client_secret_file") is not None:
            raise ValueError("conflicts with client_secret_file: keep that one, and remove client_secret")
        return secret

    @field_validator("token_endpoint")
    @classmethod
    def _needed_by_oauth2(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None and info.data.get("kind") == "oauth2":
            raise ValueError('is missing: kind "oauth2" needs it (and authorization_endpoint, to log in)')
        return url

    @field_validator("issuer")
    @classmethod
    def _needed_by_oidc(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None and info.data.get("kind") == "oidc":
            raise ValueError('is missing: kind "oidc" needs it, exactly as the discovery document spells it')
        return url

    @field_validator("account_endpoint")
    @classmethod
    def _safe_account_endpoint(cls, url: str | None, info: ValidationInfo) -> str | None:
        return None if url is None else require_account_url(url, allow_http=info.data.get("allow_http") is True)

    @field_validator("account_hosts")
    @classmethod
    def _named_hosts(cls, hosts: list[str] | None, info: ValidationInfo) -> list[str] | None:
        url = info.data.get("account_endpoint")
        if url and "{" in url.split("/")[2] and not hosts and info.data.get("kind") != "een-v3":
            raise ValueError("is missing: account_endpoint takes its host from the token response, so name the hosts")
        return hosts

    @field_validator("issuer", "authorization_endpoint", "token_endpoint", "revocation_endpoint", "logout_endpoint")
    @classmethod
    def _plain_on_loopback(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is not None and plain_beyond_loopback(url) and info.data.get("allow_http") is False:
            raise ValueError("uses plain HTTP beyond loopback: use https, or set allow_http = true for this provider")
        return url
