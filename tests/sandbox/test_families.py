"""Rotation, reuse, graces and limits, with a clock that the test moves."""

from __future__ import annotations

import pytest

from broker.sandbox import Authority, Refused, fingerprint
from broker.sandbox import Options as SandboxOptions
from broker.sandbox.rotating import DIALECT


class Clock:
    """Epoch seconds that stand still."""

    def __init__(self) -> None:
        """Start anywhere."""
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return a clock."""
    return Clock()


@pytest.fixture
def authority(clock: Clock) -> Authority:
    """Return an authority without HTTP that uses that clock."""
    return Authority(DIALECT, access_lifetime=30, clock=clock)


def _issue(authority: Authority) -> tuple[str, str]:
    pair = authority.issue()
    assert pair.refresh_token is not None
    return pair.access_token, pair.refresh_token


def _refresh(authority: Authority, token: str) -> tuple[str, str]:
    pair = authority.refresh(token)
    assert pair.refresh_token is not None
    return pair.access_token, pair.refresh_token


def test_reuse_revokes_the_family(authority: Authority) -> None:
    """A spent refresh token that is redeemed again revokes its family, and only that one."""
    _, first = _issue(authority)
    other, _ = _issue(authority)
    access, second = _refresh(authority, first)
    with pytest.raises(Refused, match="invalid_grant"):
        authority.refresh(first)
    assert authority.reuse == 1
    assert not authority.is_live_access(access)
    with pytest.raises(Refused, match="invalid_grant"):
        authority.refresh(second)
    assert authority.reuse == 1, "a revoked token is no reuse"
    assert authority.is_live_access(other)


def test_unknown_token_is_no_reuse(authority: Authority) -> None:
    """A token that was never issued is rejected and counts as nothing."""
    with pytest.raises(Refused, match="unknown"):
        authority.refresh("made up")
    assert authority.reuse == 0


def test_grace_returns_the_same_successor(authority: Authority, clock: Clock) -> None:
    """Within the grace a repeated refresh gets the same tokens as the first; after it, it is reuse."""
    authority.options.reuse_grace = 10
    _, first = _issue(authority)
    pair = authority.refresh(first)
    clock.now += 9.9
    again = authority.refresh(first)
    assert (again.access_token, again.refresh_token) == (pair.access_token, pair.refresh_token)
    assert again.expires_in == pytest.approx(20.1)
    assert authority.reuse == 0
    clock.now += 0.1
    with pytest.raises(Refused, match="already used"):
        authority.refresh(first)
    assert authority.reuse == 1


@pytest.mark.parametrize("invalidated", [True, False])
def test_invalidate_old_token(authority: Authority, invalidated: bool) -> None:
    """The option decides whether a refresh invalidates the previous access token."""
    authority.options.invalidate_old_token = invalidated
    access, refresh = _issue(authority)
    _refresh(authority, refresh)
    assert authority.is_live_access(access) is not invalidated


def test_access_tokens_expire(authority: Authority, clock: Clock) -> None:
    """An access token is valid for exactly the stated lifetime."""
    access, _ = _issue(authority)
    clock.now += 29.9
    assert authority.is_live_access(access)
    clock.now += 0.1
    assert not authority.is_live_access(access)
    assert authority.families[0].access_tokens == ()


def test_unstated_lifetime(authority: Authority, clock: Clock) -> None:
    """Without expires_in the token still expires, after the unstated lifetime."""
    authority.options.access_lifetime = None
    authority.options.unstated_lifetime = 5
    pair = authority.issue()
    assert pair.expires_in is None
    clock.now += 5
    assert not authority.is_live_access(pair.access_token)


def test_idle_limit(authority: Authority, clock: Clock) -> None:
    """Each use restarts the idle limit."""
    authority.options.idle_limit = 100
    _, refresh = _issue(authority)
    for _ in range(3):
        clock.now += 99
        _, refresh = _refresh(authority, refresh)
    clock.now += 100
    assert not authority.is_live_refresh(refresh)
    with pytest.raises(Refused, match="expired"):
        authority.refresh(refresh)
    assert authority.reuse == 0


def test_absolute_limit(authority: Authority, clock: Clock) -> None:
    """The absolute limit counts from the login, whatever was refreshed since."""
    authority.options.absolute_limit = 100
    _, refresh = _issue(authority)
    clock.now += 60
    _, refresh = _refresh(authority, refresh)
    clock.now += 40
    assert not authority.is_live_refresh(refresh)
    assert not authority.families[0].revoked


def test_same_token_until_expiry(authority: Authority, clock: Clock) -> None:
    """Non-rotating V3: the current access token with its remaining lifetime, a new one only after that."""
    authority.options.same_token_until_expiry = True
    access, refresh = _issue(authority)
    clock.now += 12
    again = authority.refresh(refresh)
    assert (again.access_token, again.refresh_token, again.expires_in) == (access, refresh, 18)
    assert authority.families[0].generation == 1
    clock.now += 18
    assert authority.refresh(refresh).access_token != access
    assert authority.is_live_refresh(refresh)


def test_refresh_token_omitted(authority: Authority) -> None:
    """A response without refresh_token leaves the redeemed one valid, however often."""
    authority.options.omit_refresh_token_on_refresh = True
    _, refresh = _issue(authority)
    for _ in range(2):
        assert authority.refresh(refresh).refresh_token is None
    assert authority.is_live_refresh(refresh)


def test_exchange_without_refresh_token(authority: Authority) -> None:
    """The code exchange may yield an access token alone."""
    authority.options.issue_refresh_token = False
    code = authority.authorize("demo", "openid", "http://127.0.0.1/cb")
    pair, _ = authority.exchange(code, "http://127.0.0.1/cb", None)
    assert pair.refresh_token is None
    assert authority.families[0].refresh_token is None


def test_codes_expire(authority: Authority, clock: Clock) -> None:
    """A code lives five minutes."""
    code = authority.authorize("demo", "openid", "http://127.0.0.1/cb")
    clock.now += 300
    with pytest.raises(Refused, match="expired code"):
        authority.exchange(code, "http://127.0.0.1/cb", None)


def test_revoking_by_hand(authority: Authority) -> None:
    """A test can end one family by any of its tokens, or all of them."""
    access, first = _issue(authority)
    second = _refresh(authority, first)[1]
    other, _ = _issue(authority)
    assert authority.revoke_family(first)
    assert not authority.revoke_family("made up")
    assert not authority.is_live_access(access)
    assert not authority.is_live_refresh(second)
    authority.revoke_all()
    assert not authority.is_live_access(other)


def test_ledger_finds_families(authority: Authority) -> None:
    """Any token, spent ones included, leads to its family; the view counts generations."""
    _, first = _issue(authority)
    access, second = _refresh(authority, first)
    family = authority.family_of(first)
    assert family is not None
    assert (family.refresh_token, family.generation) == (second, 2)
    assert access in family.access_tokens
    assert authority.family_of("made up") is None


def test_secrets_remember_everything(authority: Authority) -> None:
    """Spent tokens and former client secrets stay secrets; `repr` of a pair shows none of them."""
    pair = authority.issue()
    authority.refresh(str(pair.refresh_token))
    former, authority.client_secret = authority.client_secret, "changed"
    assert {pair.access_token, pair.refresh_token, former, "changed"} <= authority.secrets()
    assert not any(secret in repr(pair) for secret in authority.secrets())
    assert fingerprint(pair.access_token) not in pair.access_token


def test_options_are_plain_data() -> None:
    """The defaults are those of RFC 6749 with rotation, so that a dialect says only what differs."""
    options = SandboxOptions()
    assert (options.rotate, options.reuse_grace, options.return_state) == (True, 0, True)
