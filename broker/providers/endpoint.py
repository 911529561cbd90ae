"""One provider's token endpoint: token requests (RFC 6749 §4.1.3, §6) and their outcomes.

Owns how a request is built and authenticated. Each is sent at most once: a retry is a new due time, and scheduling it
is up to `refresh`. Knows nothing of grants, of the store or of callers.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from broker.errors import BrokerError, InvalidSettings
from broker.model import NotSent, Outcome, Unknown
from broker.providers import issue_time, members, token_response
from broker.providers.client_secret import ClientSecret
from broker.providers.credentials import Credentials
from broker.providers.dialects import Dialect
from broker.providers.discovery import Discovery
from broker.providers.faults import TOO_LATE
from broker.providers.headers import ExtraHeaders
from broker.providers.http import Reply
from broker.providers.request_form import authenticate, with_params

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.providers.dialects import Metadata
    from broker.providers.http import Http
    from broker.secret import Secret
    from broker.settings import Provider

NO_ENDPOINT = NotSent("no_endpoint", "neither settings nor discovery name such an endpoint")


class Endpoint:
    """One provider, seen through one client registration."""

    def __init__(
        self,
        dialect: Dialect,
        http: Http,
        client_secret: ClientSecret,
        clock: Callable[[], int],
        headers: ExtraHeaders,
    ) -> None:
        """Wire the endpoint. *clock* returns epoch ms."""
        self.dialect = dialect
        """As the settings have it; `resolve` adds what discovery finds."""
        self.http = http
        self.answered_at: int | None = None
        """When the provider last answered a request, whatever it answered (epoch ms); None: not yet."""
        self.headers = headers
        """Sent with each request that carries a secret, discovery's not."""
        self._client_secret = client_secret
        self._clock = clock
        self._clock_ahead_ms = 0
        """By how much the server's clock was ahead at least, in any response."""
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
        dialect = Dialect.from_settings(name, provider, window)
        return cls(dialect, http, secret, clock, ExtraHeaders(provider.headers))

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
        dialect = self.dialect
        if dialect.scope_on_refresh and (requested := scope or dialect.scope):
            form["scope"] = dialect.joined(requested)
        form = with_params(form, dialect.token_params, dialect.refresh_params)
        return await self._token(form, (refresh_token,), timeout, dialect.refresh_endpoint)

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
        dialect = self.dialect
        if dialect.scope_on_exchange and dialect.scope:
            form["scope"] = dialect.scope
        # `token_params` may add `redirect_uri` for refresh: the exchange has its own, which wins.
        return await self._token(
            with_params(form, dialect.token_params, dialect.exchange_params), tuple(secrets), timeout
        )

    async def _token(
        self, form: Mapping[str, str], secrets: tuple[Secret, ...], timeout: float, url: str | None = None
    ) -> Outcome:
        dialect = self.dialect
        reply, sent = await self.post(form, secrets, timeout=timeout, url=url)
        if not isinstance(reply, Reply):
            return reply
        now = self._clock()
        return token_response.read(
            reply.status,
            reply.headers,
            reply.body,
            dialect=dialect,
            now=now,
            sent=sent,
            fault=reply.fault,
            issued_at=self._issued_at(reply, now),
        )

    def _issued_at(self, reply: Reply, now: int) -> int:
        """Return the earliest time at which a token in *reply*, read at *now*, was issued (epoch ms)."""
        date = members.date_ms(reply.headers.get("Date"))
        self._clock_ahead_ms = max(self._clock_ahead_ms, issue_time.clock_ahead_ms(now, date))
        return issue_time.earliest(now, reply.sent_at, date, self._clock_ahead_ms)

    async def post(
        self,
        form: Mapping[str, str],
        secrets: tuple[Secret, ...],
        *,
        timeout: float,
        revocation: bool = False,
        url: str | None = None,
    ) -> tuple[Reply | NotSent | Unknown, tuple[Secret, ...]]:
        """POST *form* to the token endpoint, *url* or the *revocation* endpoint, with the client's credentials, once.

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
        url = url or (dialect.revocation_endpoint if revocation else dialect.token_endpoint)
        if url is None:
            return NO_ENDPOINT, secrets
        try:
            client_secret = await self._client_secret.current(deadline - time.monotonic())
        except InvalidSettings as error:
            return NotSent("client_secret_unreadable", str(error)), secrets
        try:
            headers, header_secrets = await self.headers.current(deadline - time.monotonic())
        except InvalidSettings as error:
            return NotSent("header_unreadable", str(error)), secrets
        client = self._client_credentials(dialect, client_secret)
        place = "body" if revocation else dialect.parameters
        request = authenticate(url, form, client, place, body=dialect.body, headers=headers)
        reply = await self.http.send(request, timeout=deadline - time.monotonic(), clock=self._clock)
        if isinstance(reply, Reply):
            self.answered_at = self._clock()
        return reply, (*secrets, *client.secrets, *header_secrets)

    def _client_credentials(self, dialect: Dialect, client_secret: Secret | None) -> Credentials:
        """Return the client's credentials, made anew only when the dialect or the secret changes."""
        made = self._credentials
        if made is None or made[0] is not dialect or made[1] is not client_secret:
            made = self._credentials = (dialect, client_secret, Credentials.for_client(dialect, client_secret))
        return made[2]
