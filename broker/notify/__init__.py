"""Telling people: what is wrong, once per change, by every way that the settings name.

Owns what a notice is about, when it is due and how it is sent. Must not know how grants are refreshed: it reads the
store as anybody may, so that what it says holds whichever replica saw it happen.
"""

from broker.notify.notifier import Notifier, TestResult, open_desk
from broker.notify.policy import Limits

__all__ = ["Limits", "Notifier", "TestResult", "open_desk"]
