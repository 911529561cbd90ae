"""One provider's token endpoint: token requests (RFC 6749 §4.1.3, §6) and their outcomes.

Owns how a request is built and authenticated. Each is sent at most once: a retry is a new due time, and scheduling it
is up to `refresh`. Knows nothing of grants, of the store or of callers.
"""

from __future__ import annotations

import functools
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from broker.errors import BrokerError, InvalidSettings
from broker.model import NotSent, Outcome, Unknown
from broker.providers import token_response
from broker.providers.client_secret import ClientSecret
from broker.providers.credentials import Credentials, to_bytes
from broker.providers.dialects import Dialect
from broker.providers.discovery import Discovery
from broker.providers.http import TOO_LATE, Reply, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.providers.dialects import Metadata, Parameters
    from broker.providers.http import Http
    from broker.secret import Secret
    from broker.settings import Provider

FORM = "application/x-www-form-urlencoded"
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]*")
"""Text that a form leaves as it is: nearly every token."""
NO_ENDPOINT = NotSent("no_endpoint", "neither settings nor discovery name such an endpoint")


class Endpoint:
    """One provider, seen through one client registration."""

    def __init__(self, dialect: Dialect, http: Http, client_secret: ClientSecret, clock: Callable[[], int]) -> None:
        """Wire the endpoint. *clock* returns epoch ms."""
        self.dialect = dialect
        """As the settings have it; `resolve` adds what discovery finds."""
        self.http = http
        self.answered_at: int | None = None
        """When the provider last answered a request, whatever it answered (epoch ms); None: not yet."""
        self._client_secret = client_secret
        self._clock = clock
        self._discovery = Discovery(dialect, http) if dialect.discovery else None
        self._discovered: tuple[Metadata, Dialect] | None = None
        self._credentials: tuple[Dialect, Secret | None, Credentials] | None = None

    @classmethod
    def from_settings(
        cls,
        name: str,
        provider: Provider,
        http: Http,
        *,
        clock: Callable[[], int],
        window: tuple[float, float] | None = None,
    ) -> Endpoint:
        """Make the endpoint of the provider *name* in the settings; *window* is `settings.refresh.window`."""
        secret = ClientSecret(provider.client_secret, provider.client_secret_file)
        return cls(Dialect.from_settings(name, provider, window), http, secret, clock)

    async def resolve(self, timeout: float | None = None) -> Dialect:
        """Return the dialect with every endpoint known.

        Args:
            timeout: for discovery, in seconds; None: the time of one request.

        Raises:
            InvalidSettings: discovery is needed, and the document contradicts the settings.
            ProviderUnavailable: discovery is needed, and the document cannot be fetched.
        """
        if self._discovery is None:
            return self.dialect
        metadata = await self._discovery.metadata(self.http.request_timeout if timeout is None else timeout)
        if self._discovered is None or self._discovered[0] is not metadata:
            self._discovered = (metadata, self.dialect.with_metadata(metadata))
        return self._discovered[1]

    async def refresh(
        self,
        refresh_token: Secret,
        *,
        scope: str | None = None,
        timeout: float,
    ) -> Outcome:
        """Redeem *refresh_token* (RFC 6749 §6), at most once. Never raises except `CancelledError`.

        Args:
            refresh_token: the grant's.
            scope: the grant's own; it is sent only where the dialect says so.
            timeout: for the whole request, in seconds; zero or less sends nothing.
        """
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token.reveal()}
        if self.dialect.scope_on_refresh and (requested := scope or self.dialect.scope):
            form["scope"] = requested
        return await self._token(form, (refresh_token,), timeout)

    async def exchange_code(
        self,
        code: Secret,
        *,
        redirect_uri: str,
        code_verifier: Secret | None,
        timeout: float,
    ) -> Outcome:
        """Redeem the authorization *code* (RFC 6749 §4.1.3, RFC 7636 §4.5), as `refresh` redeems a refresh token."""
        form = {"grant_type": "authorization_code", "code": code.reveal(), "redirect_uri": redirect_uri}
        secrets = [code]
        if code_verifier is not None:
            form["code_verifier"] = code_verifier.reveal()
            secrets.append(code_verifier)
        if self.dialect.scope_on_exchange and self.dialect.scope:
            form["scope"] = self.dialect.scope
        return await self._token(form, tuple(secrets), timeout)

    async def _token(self, form: dict[str, str], secrets: tuple[Secret, ...], timeout: float) -> Outcome:
        dialect = self.dialect
        # The RFC's parameters win over `token_params`, which may add `redirect_uri` for refresh: login has its own.
        form = {**dialect.token_params, **form}
        reply, sent = await self.post(form, secrets, timeout=timeout)
        if not isinstance(reply, Reply):
            return reply
        return token_response.read(
            reply.status,
            reply.headers,
            reply.body,
            dialect=dialect,
            now=self._clock(),
            sent=sent,
            fault=reply.fault,
        )

    async def post(
        self,
        form: Mapping[str, str],
        secrets: tuple[Secret, ...],
        *,
        timeout: float,
        revocation: bool = False,
    ) -> tuple[Reply | NotSent | Unknown, tuple[Secret, ...]]:
        """POST *form* to the token endpoint (or the *revocation* endpoint) with the client's credentials, once.

        Never raises except `CancelledError`.

        Returns:
            The reply or what prevented it, and every secret that was part of the request, *secrets* included.
        """
        if timeout <= 0:
            return TOO_LATE, secrets
        deadline = time.monotonic() + timeout
        dialect = self.dialect
        wanted = dialect.revocation_endpoint if revocation else dialect.token_endpoint
        # With a discovered token endpoint the authentication method is a discovered one, for revocation too.
        if self._discovery is not None and (wanted is None or dialect.token_endpoint is None):
            try:
                dialect = await self.resolve(timeout)
            except BrokerError as error:
                return NotSent("discovery", str(error)), secrets
        url = dialect.revocation_endpoint if revocation else dialect.token_endpoint
        if url is None:
            return NO_ENDPOINT, secrets
        try:
            client_secret = await self._client_secret.current(deadline - time.monotonic())
        except InvalidSettings as error:
            return NotSent("client_secret_unreadable", str(error)), secrets
        client = self._client_credentials(dialect, client_secret)
        request = authenticate(url, form, client, "body" if revocation else dialect.parameters)
        reply = await self.http.send(request, timeout=deadline - time.monotonic())
        if isinstance(reply, Reply):
            self.answered_at = self._clock()
        return reply, (*secrets, *client.secrets)

    def _client_credentials(self, dialect: Dialect, client_secret: Secret | None) -> Credentials:
        """Return the client's credentials, made anew only when the dialect or the secret changes."""
        made = self._credentials
        if made is None or made[0] is not dialect or made[1] is not client_secret:
            made = self._credentials = (dialect, client_secret, Credentials.for_client(dialect, client_secret))
        return made[2]


def authenticate(url: str, form: Mapping[str, str], client: Credentials, parameters: Parameters) -> Request:
    """Return a POST of *form* to *url* with the client's credentials (RFC 6749 §2.3.1). Pure.

    *parameters* "query" puts *form* into the URL; credentials never go there.
    """
    headers = {"Content-Type": FORM, **client.headers}
    if parameters == "query":
        url += ("&" if "?" in url else "?") + _encode_form(form)
        return Request(method="POST", url=url, headers=headers, body=_encode_form(client.form).encode("ascii"))
    return Request(method="POST", url=url, headers=headers, body=_encode_form({**form, **client.form}).encode("ascii"))


def _encode_form(form: Mapping[str, str]) -> str:
    return "&".join([f"{_quote_name(name)}={_quote(value)}" for name, value in form.items()])


def _quote(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else quote_plus(to_bytes(text))


_quote_name = functools.cache(_quote)
"""For the names of parameters: the standard's, and those of the settings."""
