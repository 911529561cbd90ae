"""The settings: one TOML file, the environment over it, secrets from files.

Owns their schema, the spelling of values, and errors that name the place and the cure. Knows nothing of the daemon.
"""

from broker.settings.audit import Audit
from broker.settings.channels import NoticeChannel
from broker.settings.outgoing import Outgoing
from broker.settings.provider import Provider
from broker.settings.schema import LEASE_MARGIN, Caller, Http, Log, Notify, Redis, Settings
from broker.settings.values import Section

__all__ = [
    "LEASE_MARGIN",
    "Audit",
    "Caller",
    "Http",
    "Log",
    "NoticeChannel",
    "Notify",
    "Outgoing",
    "Provider",
    "Redis",
    "Section",
    "Settings",
]
