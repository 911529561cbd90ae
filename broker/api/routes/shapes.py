"""The JSON bodies of requests and responses, by name; `openapi` makes its schemas from them.

Members whose names end in `_at`, `_by` or `_until` are epoch seconds. A later version may add members.
"""

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from broker.model import GRANT_ID, State
from broker.model.account import MAX_TEXT

GrantId = Annotated[str, Field(pattern=f"^{GRANT_ID.pattern}$", examples=["acme-cameras"])]
At = Annotated[int, Field(description="epoch seconds")]
Generation = Annotated[
    int, Field(description="a grant's version: grows with every new token; the ETag, without quotes")
]


class Error(TypedDict):
    """An error: why, and what to do."""

    error: Annotated[str, Field(description="a code for programs")]
    error_description: Annotated[str, Field(description="what is wrong and what to do, for people")]
    login_url: NotRequired[Annotated[str, Field(description="where a person logs in again")]]


@with_config(ConfigDict(extra="allow"))
class TokenAnswer(TypedDict):
    """A token answer of RFC 6749 §5.1, with the broker's own members and every other member that the provider sent.

    Those that only the answer to the login had are kept until a later answer names them anew.
    """

    access_token: str
    token_type: str
    expires_in: Annotated[int, Field(ge=0, description="seconds, counted from this answer")]
    expires_at: At
    scope: NotRequired[str]
    grant_id: GrantId
    generation: Generation
    provider: str


@with_config(ConfigDict(extra="allow"))
class StandardTokenAnswer(TokenAnswer):
    """The same for OAuth clients: `scope` as requested, and an expiry some seconds before the real one."""

    provider_scope: NotRequired[str]


class ClientCredentials(TypedDict):
    """A token request of RFC 6749 §4.4.2."""

    grant_type: Literal["client_credentials"]
    scope: Annotated[str, Field(pattern=f"^grant:{GRANT_ID.pattern}$", examples=["grant:acme-cameras"])]
    client_id: NotRequired[Annotated[str, Field(description="the caller's name, without HTTP Basic")]]
    client_secret: NotRequired[Annotated[str, Field(description="the caller's key, without HTTP Basic")]]


class Account(TypedDict):
    """The account at the provider that a grant gives access to."""

    id: Annotated[str, Field(description="`sub` of the id_token, or what the provider's account endpoint says")]
    email: NotRequired[str]
    preferred_username: NotRequired[str]
    name: NotRequired[str]


FreeText = Annotated[str | None, Field(description="free text; null or empty: none", max_length=MAX_TEXT)]


class Last(TypedDict):
    """The outcome of a grant's last token request."""

    outcome: str
    detail: str | None
    at: At


class Grant(TypedDict):
    """A grant, without its secrets."""

    grant_id: GrantId
    provider: str
    state: State
    state_words: Annotated[str, Field(description="the state in words for people")]
    reason: Annotated[str | None, Field(description="why it is parked")]
    generation: Generation
    issued_at: At | None
    expires_at: At | None
    refresh_at: At
    granted_at: At
    reauthorize_by: At | None
    reauthorize_soon: Annotated[bool, Field(description="a person must log in again soon")]
    scope: str | None
    failures: Annotated[int, Field(ge=0, description="failed token requests in a row")]
    unreadable: Annotated[bool, Field(description="no sealing key opens its stored tokens, or its data was altered")]
    last: Last | None
    account: Annotated[Account | None, Field(description="null: not known")]
    owner: Annotated[str | None, Field(description="who is responsible for it, as somebody wrote")]
    label: Annotated[str | None, Field(description="what it is for, as somebody wrote")]
    rights: NotRequired[Annotated[list[str], Field(description="those that the caller has on it")]]
    served: NotRequired[Annotated[bool, Field(description="with `order=urgent`: callers get a token now")]]
    unserved_since: NotRequired[Annotated[At | None, Field(description="likewise: the end of its last token")]]


class Grants(TypedDict):
    """A page of the list."""

    grants: list[Grant]
    next: Annotated[str | None, Field(description="the `cursor` of the next page; null: this is the last")]
    complete: NotRequired[Annotated[bool, Field(description="with `order=urgent`: false just after an upgrade")]]


class PutGrant(TypedDict):
    """A refresh token to import; or, without `provider` and `refresh_token`, the owner and label of a grant.

    A member that is missing changes nothing.
    """

    provider: NotRequired[Annotated[str, Field(description="a provider in the settings", examples=["cameramanager"])]]
    refresh_token: NotRequired[Annotated[str, Field(min_length=1, examples=["tGzv3JOkF0XG5Qx2TlKWIA"])]]
    scope: NotRequired[str | None]
    owner: NotRequired[FreeText]
    label: NotRequired[FreeText]


class ImportLine(TypedDict):
    """One line of a bulk import."""

    grant_id: GrantId
    provider: Annotated[str, Field(description="a provider in the settings", examples=["cameramanager"])]
    refresh_token: Annotated[str, Field(min_length=1, examples=["tGzv3JOkF0XG5Qx2TlKWIA"])]
    scope: NotRequired[str | None]
    owner: NotRequired[FreeText]
    label: NotRequired[FreeText]


class Imported(TypedDict):
    """What an import did."""

    grant_id: GrantId
    provider: str
    status: Literal["created", "replaced", "unchanged", "annotated"]
    warning: NotRequired[str]


class ImportOutcome(TypedDict):
    """What an import did with one line."""

    line: Annotated[int, Field(ge=1)]
    grant_id: NotRequired[GrantId]
    status: Literal["created", "replaced", "unchanged", "refused"]
    warning: NotRequired[str]
    error: NotRequired[str]
    error_description: NotRequired[str]
    holder: NotRequired[Annotated[str, Field(description="the grant that holds this refresh token")]]


class LoggedOut(TypedDict):
    """What a logout did."""

    grant_id: GrantId
    forgotten: Literal[True]
    revoked: Annotated[bool, Field(description="whether the provider logged out")]
    detail: str


class Retried(TypedDict):
    """A grant that is retried."""

    grant_id: GrantId
    state: Literal["due", "leased"]
    warning: NotRequired[Annotated[str, Field(description="why this broker cannot refresh it")]]


class Attempt(TypedDict):
    """One token request."""

    at: At
    replica: Annotated[str, Field(description="the broker's host and process")]
    outcome: str
    error: Annotated[str | None, Field(description="the provider's")]
    error_description: Annotated[str | None, Field(description="the provider's")]
    decided: str
    next_at: At | None


class UnderWay(TypedDict):
    """A token request under way."""

    at: At
    replica: str


class Attempts(TypedDict):
    """The last token requests of a grant, and what is planned."""

    grant_id: GrantId
    now: At
    attempts: Annotated[list[Attempt], Field(description="oldest first, ten at most")]
    under_way: UnderWay | None
    unknown_at: Annotated[int | None, Field(description="when a token request was sent whose response was lost")]
    next_at: At | None
    fenced_until: Annotated[int | None, Field(description="no broker refreshes until then, since Redis was restarted")]
    forgotten_at: At | None
    lost_at: Annotated[int | None, Field(description="when the broker found that Redis had lost the grant's data")]


class Minute(TypedDict):
    """The token requests of one minute."""

    at: At
    refreshed: int
    failed: int


class Provider(TypedDict):
    """A provider's health."""

    provider: str
    kind: Annotated[str | None, Field(description="null: the provider is no longer in the settings")]
    suspended: Annotated[str | None, Field(description="the error with which the provider refuses this broker")]
    suspended_at: At | None
    not_before: At | None
    failures: Annotated[int, Field(description="failed token requests in a row, over all grants")]
    answered_at: Annotated[At | None, Field(description="its last answer, to the minute; null: not asked yet")]
    reuse_grace: Annotated[
        float | Literal["forever"] | None,
        Field(description="seconds for which a spent refresh token may be presented again"),
    ]
    detail: str | None
    grants: dict[State, int]
    history: Annotated[list[Minute], Field(description="the last 60 minutes, the one under way last")]


class Providers(TypedDict):
    """All providers: those in the settings, and those that still have grants."""

    providers: list[Provider]


class ProviderRetried(TypedDict):
    """A provider that is retried."""

    provider: str
    grants_taken_up: int


class WayTested(TypedDict):
    """The result of a test notice by one channel."""

    way: str
    told: bool
    detail: str


class NoticesTested(TypedDict):
    """The results of a test notice."""

    ways: list[WayTested]


class NewLogin(TypedDict):
    """The provider to log in at."""

    provider: Annotated[str, Field(description="a provider in the settings", examples=["cameramanager"])]
    owner: NotRequired[FreeText]
    label: NotRequired[FreeText]
    replace_account: NotRequired[
        Annotated[bool, Field(description="replace the grant even if it is of another account")]
    ]


class LoginStarted(TypedDict):
    """A login that waits for a person."""

    grant_id: GrantId
    login_url: Annotated[str, Field(description="opens until the login is completed or has expired")]
    authorization_url: Annotated[
        str, Field(description="for a browser that cannot reach this broker: see `login/complete`")
    ]
    state: str
    ticket: str
    expires_at: At


class LoginStatus(TypedDict):
    """The progress of a login."""

    grant_id: GrantId
    provider: str
    status: Literal["pending", "working", "completed", "failed"]
    error: NotRequired[Annotated[str, Field(description="`other_account`: see `login/{ticket}/replace`")]]
    error_description: NotRequired[str]


class Redirected(TypedDict):
    """The redirect of a browser that logged in at an `authorization_url`."""

    redirected_to: Annotated[str, Field(description="the whole URL")]
    state: NotRequired[Annotated[str | None, Field(description="of the login, where the URL does not have it")]]


class Decision(TypedDict):
    """The button of the page that asks to confirm a login, or says that it brought another account."""

    state: Annotated[str, Field(description="of the login; its cookie must come with it")]


class LoggedIn(TypedDict):
    """A login that was completed."""

    grant_id: GrantId
    provider: str
    scope: str | None
    expires_in: Annotated[int, Field(description="seconds of life of the first access token")]
    account: Annotated[Account | None, Field(description="null: not known")]
    warning: NotRequired[Annotated[str, Field(description="why the account is not known, where it was asked for")]]


class Resume(TypedDict):
    """Where to continue."""

    cursor: NotRequired[Annotated[str | None, Field(description="`next` of the previous response")]]


_Pass = TypedDict("_Pass", {"pass": int})  # a keyword of Python


class Resealed(_Pass):
    """The progress of resealing; at the end, what it means for the old keys."""

    grants: int
    grants_resealed: int
    logins_resealed: int
    unreadable: Annotated[list[str], Field(description="grants that no key in the settings opens")]
    next: Annotated[str | None, Field(description="the `cursor` to continue with; null: done")]
    old_keys_may_go: NotRequired[bool]
    detail: NotRequired[str]


class Reloaded(TypedDict):
    """What reading the settings again came to."""

    providers_added: list[str]
    providers_changed: Annotated[list[str], Field(description="the new settings hold from the next request on")]
    providers_removed: Annotated[list[str], Field(description="their grants wait until the table is back")]
    callers_added: list[str]
    callers_changed: Annotated[list[str], Field(description="with other rights or another key")]
    callers_removed: list[str]
    changed: Annotated[list[str], Field(description="keys with a new value, in tables that were there before")]
    callers: Annotated[list[str], Field(description="those that are known now")]
    log_level: str
    needs_restart: Annotated[list[str], Field(description="keys that differ from what the broker runs with")]


class Key(TypedDict):
    """The key to sign in with."""

    key: Annotated[str, Field(min_length=1, description="the key of a caller with the right `view` or `admin`")]


class Session(TypedDict):
    """The caller who is signed in at the status page; null for nobody."""

    caller: str | None
    admin_of_all: NotRequired[bool]
    rights: NotRequired[Annotated[list[str], Field(description="those that the caller has on any grant")]]
    ends_at: NotRequired[At]


class GrantReady(TypedDict):
    """A live token can be read."""

    status: Literal["ok"]
    generation: Generation
    expires_at: At


class GrantNotReady(Error):
    """No live token can be read."""

    status: Literal["failed"]
