"""Notify people when something goes wrong, once per change, through every channel that the settings name.

Owns what a notice is about, when it is due and how it is sent. Must not know how grants are refreshed: it reads the
store like any other reader, so a notice is right whichever replica saw the event.
"""

from broker.notify.notifier import Notifier, TestResult, open_notifier
from broker.notify.policy import Limits

__all__ = ["Limits", "Notifier", "TestResult", "open_notifier"]
