"""A real OAuth 2.0 authorization server over HTTP, for tests and the demo.

It owns three servers with their own dialects, a ledger of everything that they issued, and faults on demand.
It is separate: it knows nothing of the broker.
"""

from __future__ import annotations

from broker.sandbox.authority import Authority
from broker.sandbox.authorize import PASSWORD, USER
from broker.sandbox.browser import BrowserError, walk_login, walk_to_redirect
from broker.sandbox.faults import Fault, Faults
from broker.sandbox.options import FamilyView, Options, TokenPair, TokenRequest, fingerprint
from broker.sandbox.refusal import Refused
from broker.sandbox.server import Sandbox

__all__ = [
    "PASSWORD",
    "USER",
    "Authority",
    "BrowserError",
    "FamilyView",
    "Fault",
    "Faults",
    "Options",
    "Refused",
    "Sandbox",
    "TokenPair",
    "TokenRequest",
    "fingerprint",
    "walk_login",
    "walk_to_redirect",
]
