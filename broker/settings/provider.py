"""The settings of one provider: an authorization server and the client registration of this broker there.

Owns their schema and cross-checks. `catalogue` fills in what the kind of a provider supplies, `providers.dialects` the
defaults where both are silent.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from broker.settings import catalogue
from broker.settings.outgoing import CredentialsFile, OwnProxy
from broker.settings.placeholders import require_values
from broker.settings.values import (
    AccountUrl,
    CallbackParameter,
    Grace,
    PositiveDuration,
    ResponsePath,
    Section,
    WebUrl,
    Window,
    matching,
    plain_beyond_loopback,
    require_account_url,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


_URLS = (
    "issuer",
    "authorization_endpoint",
    "token_endpoint",
    "refresh_endpoint",
    "revocation_endpoint",
    "logout_endpoint",
)
"""The settings that are URLs to which secrets go."""


class SecretFile(Section):
    """A value that stands in a file."""

    file: Path = Field(description="file (mode 0600) with the value")


def _header_name(name: str) -> str:
    if name.lower() in {"content-type", "content-length", "host", "connection", "transfer-encoding"}:
        raise ValueError("is set by the broker itself: remove it")
    return name


HeaderName = Annotated[
    str, matching(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", "is no name of a header"), AfterValidator(_header_name)
]
HeaderValue = Annotated[str, matching(r"[^\x00-\x1f\x7f]+", "must be one line of text, or { file = PATH }")]
ErrorWords = Annotated[str, Field(min_length=1, pattern=r"\S")]


class Provider(Section):
    """An authorization server and this broker's client registration there.

    The kind fills in what is not given.
    """

    kind: str = Field(
        description="kind of the authorization server, by its name in the catalogue (`token-broker providers`): it "
        "supplies the endpoints and other settings"
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
    refresh_endpoint: WebUrl | None = Field(
        default=None, description="URL of refreshes where it differs from the token endpoint"
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
    parameters: Literal["body", "query"] | dict[str, str] | None = Field(
        default=None,
        description="part of the token request that carries its parameters; or a table of values that the kind asks "
        'for, such as { shop = "acme" }',
    )
    pkce: bool | None = Field(default=None, description="send a code_challenge by S256 at login (RFC 7636)")
    state: Literal["required", "optional"] | None = Field(
        default=None,
        description="optional: a callback may lack state; then the cookie finds the login, and the person confirms it "
        "on a page",
    )
    confirm_login: bool | None = Field(
        default=None,
        description="have whoever logged in confirm the account on a page before anything is kept, as always where a "
        "callback lacks state",
    )
    redirect_uri_encoding: Literal["percent", "plain"] | None = Field(
        default=None, description='plain: leave ":" and "/" of redirect_uri unencoded in the authorization URL'
    )
    scope_on_refresh: bool | None = Field(default=None, description="send scope with each refresh")
    scope_on_exchange: bool | None = Field(default=None, description="send scope with the code exchange")
    scope_separator: str | None = Field(
        default=None, min_length=1, description="what separates scopes in requests, a blank by default"
    )
    authorization_params: dict[str, str] = Field(
        default={},
        description='further parameters of the authorization URL; they replace or, with "", remove any of the '
        "broker's own but state and PKCE",
    )
    token_params: dict[str, str] = Field(
        default={},
        description='further parameters of every token request; of the broker\'s own they replace or, with "", remove '
        "client_id only",
    )
    exchange_params: dict[str, str] = Field(
        default={},
        description='further parameters of the code exchange; they replace or, with "", remove any of the broker\'s '
        "own but code, PKCE and secret",
    )
    refresh_params: dict[str, str] = Field(
        default={},
        description='further parameters of refreshes; they replace or, with "", remove any of the broker\'s own but '
        "refresh token and secret",
    )
    body: Literal["form", "json"] | None = Field(
        default=None, description="encoding of the parameters in the body of a token request"
    )
    headers: dict[HeaderName, HeaderValue | SecretFile] = Field(
        default={},
        description="further headers of token requests, revocation and logout; secrets from files: "
        '{ "api-key" = { file = "…" } }',
    )
    proxy: OwnProxy = None
    proxy_credentials_file: CredentialsFile = None
    code_parameter: str | None = Field(
        default=None, min_length=1, description="name of the callback's parameter that holds the code"
    )
    redirect_uri: str | None = Field(
        default=None,
        min_length=1,
        description="redirect_uri to send instead of public_url + /callback, which need not be a URL; the browser must "
        "come back to /callback all the same",
    )
    redirect_path: Literal["shared", "provider"] | None = Field(
        default=None,
        description="where the browser comes back to: shared: public_url + /callback; provider: public_url + "
        "/callback/NAME, which keeps providers apart that send no iss",
    )
    window: Window | None = Field(
        default=None,
        description="fractions of a token's lifetime between which it is refreshed, instead of refresh.window",
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
        default=None,
        description="HTTP statuses that mean a dead refresh token, or a wrong client, where no error code says which",
    )
    dead_errors: list[ErrorWords] | None = Field(
        default=None, description="words, in the error code or its description, that mean a dead refresh token"
    )
    busy_errors: list[ErrorWords] | None = Field(
        default=None, description="words, in the error code or its description, that ask the broker to come later"
    )
    registration_errors: list[ErrorWords] | None = Field(
        default=None, description="words, in the error code or its description, that mean the client id or secret"
    )

    @field_validator("*")
    @classmethod
    def _no_placeholder(cls, value: object, info: ValidationInfo) -> object:
        require_values(info.field_name or "", value)
        return value

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        return catalogue.fill_in(given, cls) if isinstance(given, dict) else given

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        if kind not in catalogue.names():
            raise ValueError(catalogue.unknown(kind))
        return kind

    @field_validator("parameters", mode="before")
    @classmethod
    def _of_the_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind = catalogue.load(info.data["kind"]) if "kind" in info.data else None
        if not isinstance(value, dict) and value not in (None, "body", "query"):
            raise ValueError('must be "body" or "query", or a table of the values that the kind asks for')
        if kind is None:
            return None
        filled = kind.filled(value)
        replaced = [key for key, given in info.data.items() if key in filled and given != filled[key]]
        _raise_at(kind.problems(value, replaced))
        return value

    @field_validator("client_secret")
    @classmethod
    def _one_secret(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if secret is not None and info.data.get("client_secret_file") is not None:
            raise ValueError("conflicts with client_secret_file: keep that one, and remove client_secret")
        return secret

    @field_validator("token_endpoint")
    @classmethod
    def _needed_by_oauth2(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None and _base(info) == "oauth2":
            raise ValueError(f'is missing: kind "{info.data["kind"]}" needs it (and authorization_endpoint, to log in)')
        return url

    @field_validator("issuer")
    @classmethod
    def _needed_by_oidc(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None and _base(info) == "oidc":
            raise ValueError(
                f'is missing: kind "{info.data["kind"]}" needs it, exactly as the discovery document spells it'
            )
        return url

    @field_validator("account_endpoint")
    @classmethod
    def _safe_account_endpoint(cls, url: str | None, info: ValidationInfo) -> str | None:
        return None if url is None else require_account_url(url, allow_http=info.data.get("allow_http") is True)

    @field_validator("account_hosts")
    @classmethod
    def _named_hosts(cls, hosts: list[str] | None, info: ValidationInfo) -> list[str] | None:
        url = info.data.get("account_endpoint")
        if url and "{" in url.split("/")[2] and not hosts:
            raise ValueError("is missing: account_endpoint takes its host from the token response, so name the hosts")
        return hosts

    @field_validator("headers", mode="before")
    @classmethod
    def _texts_or_files(cls, headers: Any) -> Any:
        values = headers if isinstance(headers, dict) else {}
        _raise_at((name, "must be text, or { file = PATH }") for name, value in values.items() if not _is_header(value))
        return headers

    @field_validator("headers")
    @classmethod
    def _each_once(cls, headers: dict[str, str | SecretFile]) -> dict[str, str | SecretFile]:
        if len({name.lower() for name in headers}) < len(headers):
            raise ValueError("has a header twice: the case of its name makes no difference")
        return headers

    @field_validator(*_URLS)
    @classmethod
    def _plain_on_loopback(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is not None and plain_beyond_loopback(url) and info.data.get("allow_http") is False:
            raise ValueError("uses plain HTTP beyond loopback: use https, or set allow_http = true for this provider")
        return url

    @property
    def place(self) -> Literal["body", "query"]:
        """Return which part of a token request carries its parameters."""
        # A refresh token does not belong in a URL, so "query", CameraManager's documented form, is a setting.
        word = self.parameters
        if word is None or isinstance(word, dict):
            word = catalogue.load(self.kind).settings.get("parameters")
        return "query" if word == "query" else "body"

    @property
    def secret_files(self) -> dict[str, Path]:
        """Return the path of every file with a secret, by the key that names it."""
        files = {} if self.client_secret_file is None else {"client_secret_file": self.client_secret_file}
        headers = {name: value for name, value in self.headers.items() if isinstance(value, SecretFile)}
        if self.proxy_credentials_file is not None:
            files["proxy_credentials_file"] = self.proxy_credentials_file
        return files | {f"headers.{name}.file": value.file for name, value in headers.items()}

    @property
    def discovery(self) -> bool:
        """Return whether the issuer's discovery document says what the settings do not."""
        return catalogue.load(self.kind).base == "oidc"


def _is_header(value: object) -> bool:
    return isinstance(value, str | SecretFile) or (isinstance(value, dict) and [*value] == ["file"])


def _base(info: ValidationInfo) -> str | None:
    return catalogue.load(info.data["kind"]).base if "kind" in info.data else None


def _raise_at(problems: Iterable[tuple[str, str]]) -> None:
    """Raise an error at each of these keys of a table, with what is allowed there."""
    errors = [
        InitErrorDetails(type=PydanticCustomError("value_error", "{error}", {"error": words}), loc=(key,), input=None)
        for key, words in problems
    ]
    if errors:
        raise ValidationError.from_exception_data("parameters", errors)
