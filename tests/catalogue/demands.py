"""What each provider demands of a client and what it answers, as its own pages and other people's clients say.

Written apart from the catalogue that the broker ships, of which nothing here is read: a fact that one of the two has
wrong makes a test fail. One file a provider, `demands/KIND.toml`. Knows nothing of the broker.
"""

from __future__ import annotations

import functools
import json
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

FOLDER = Path(__file__).parent / "demands"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Endpoints(_Table):
    """URLs, for the values of `given`."""

    authorize: str
    token: str
    refresh: str | None = None
    """Where a refresh goes, if not to `token`."""
    account: str | None = None
    """Where the account is asked for, with the access token."""
    revoke: str | None = None
    """Where a logout revokes the refresh token (RFC 7009)."""
    logout: str | None = None
    """Where DELETE with the access token logs out."""
    issuer: str | None = None
    """Whose discovery document names the first two."""
    issuer_in_document: str | None = None
    """Where the document names another: Entra's stands for every tenant."""
    same_as_token: list[str] = []
    """Other URLs of the token endpoint."""


class Given(_Table):
    """What a person must set beside `kind`, `client_id` and `client_secret`."""

    parameters: dict[str, str] = {}
    """Values of a template."""
    scope: str | None = None
    """What may be asked for, separated by blanks; set where the kind brings no scope of its own."""
    headers: dict[str, str] = {}
    """Secrets that stand in a file each."""


class Client(_Table):
    """How a client authenticates at the token endpoint."""

    by: list[Literal["basic", "post", "key"]]
    """`key`: the secret as a bearer token, or as the user name of HTTP Basic without a password; nothing names the
    client."""
    id_name: str = "client_id"
    body: Literal["form", "json", "form or json", "form or query"] = "form"
    headers: dict[str, str] = {}
    """Further headers that must come, as they are; "*" stands for any value."""


class LoginRequest(_Table):
    """The authorization request (RFC 6749 §4.1.1) and what comes back with the code."""

    needs: dict[str, str] = {}
    """Without them the provider shows an error page."""
    refuses: list[str] = []
    offline: dict[str, str] = {}
    """Without them the answer to the exchange has no refresh token."""
    offline_scope: list[str] = []
    """One of these words must be in the scope for a refresh token to be issued; empty: any scope will do."""
    scope: Literal["needed", "open", "none"] = "open"
    """none: the provider knows no scope parameter, and one that is sent is not looked at."""
    scope_name: str = "scope"
    scope_refuses: list[str] = []
    separator: str = " "
    pkce: Literal["demanded", "checked", "ignored", "refused"] = "checked"
    redirect_uri: Literal["url", "plain", "name"] = "url"
    """plain: not percent-encoded; name: a registered name in place of the URL."""
    redirect_needed: bool = True
    state: bool = True
    """Whether the callback brings it back."""
    callback: dict[str, str] = {}
    """What else the callback brings."""
    code_name: str = "code"


class TokenRequest(_Table):
    """A request to the token endpoint beside `grant_type`, the code or refresh token, and the client."""

    needs: dict[str, str] = {}
    offline: dict[str, str] = {}
    """Without them the answer has no refresh token."""
    refuses: list[str] = []
    redirect_uri: Literal["needed", "open"] = "open"


class Tokens(_Table):
    """How long tokens live (seconds), and what a refresh does to those before."""

    lifetime: int
    default_lifetime: bool = False
    """The answer does not say the lifetime."""
    rotates: bool
    spent: Literal["dead", "family", "until next", "alive"] = "dead"
    """What a spent refresh token meets: refused; refused and its grant ended; accepted until the next is used;
    accepted."""
    grace: int = 0
    """Seconds for which a spent one is accepted all the same."""
    old_access: Literal["lives", "dies"] = "lives"
    same_access_above: int | None = None
    """Where more of the access token's life is left than this, a refresh gives it back."""
    earliest: int | None = None
    """A refresh is refused, as a busy server would, while more of the access token's life is left than this."""
    at_most_every: int | None = None
    """Refreshes that come sooner one after another are throttled; longer than the access token lives, of whose end
    nobody asks there."""
    at_least_every: int | None = None
    """The provider asks for a refresh so often, however long the access token lives."""
    ends: int | None = None
    """Seconds after which a person must log in again, as far as the provider says so or the answer does."""


class Reply(_Table):
    """One refusal."""

    status: int
    body: str = ""
    type: str = "application/json"
    headers: dict[str, str] = {}


class Answers(_Table):
    """Bodies: `%AT%`, `%RT%`, `%IDT%` are the tokens, `%LEFT%`, `%END%`, `%END_ISO%` the access token's life.

    `%NOW%` is the time.
    """

    login: str
    refresh: str | None = None
    """None: as at the login."""
    form_without_accept: bool = False
    """Whoever does not send `Accept: application/json` gets a form."""
    dead: list[Reply] = [Reply(status=400, body='{"error":"invalid_grant"}')]
    """Each a grant may meet; `%RT%` is the refresh token sent."""
    busy: list[Reply] = [Reply(status=429, headers={"Retry-After": "1"})]
    secret: Reply = Reply(status=401, body='{"error":"invalid_client"}')
    wrong: Reply = Reply(status=400, body='{"error":"invalid_request"}')
    """A parameter is missing, or one too many."""

    @field_validator("login", "refresh")
    @classmethod
    def _is_json(cls, text: str | None) -> str | None:
        if text is not None:
            json.loads(text.replace("%LEFT%", "1").replace("%END%", "1").replace("%NOW%", "1"))
        return text


class Account(_Table):
    """Whose grant it is."""

    ids: list[str]
    """What may be shown as the account, each a fair choice."""
    answer: str = ""
    """What `at.account` answers."""
    claims: dict[str, Any] = {}
    """Of the id_token, beside issuer, audience and times."""
    claims_need: str = "openid"
    """The word of the scope without which there is no id_token; "": there is one always."""


class Demands(_Table):
    """One provider."""

    kind: str = ""
    sources: list[str]
    from_memory: list[str] = []
    """What stands here without a source."""
    at: Endpoints
    given: Given = Given()
    client: Client
    login: LoginRequest = LoginRequest()
    exchange: TokenRequest = TokenRequest()
    refresh: TokenRequest = TokenRequest()
    tokens: Tokens
    answers: Answers
    account: Account | None = None
    kept: list[str] = []
    """Members that callers need, from answer or callback, before and after a refresh."""

    @property
    def urls(self) -> set[str]:
        """Every URL that is asked."""
        at = self.at
        asked = (at.authorize, at.token, at.refresh, at.account, at.revoke, at.logout, at.issuer, *at.same_as_token)
        return {url for url in asked if url is not None}


@functools.cache
def all_demands() -> dict[str, Demands]:
    """Return what stands in the folder, by kind."""
    return {file.stem: read(file) for file in sorted(FOLDER.glob("*.toml"))}


def read(file: Path) -> Demands:
    """Read one provider's file."""
    return Demands.model_validate({**tomllib.loads(file.read_text("utf-8")), "kind": file.stem})
