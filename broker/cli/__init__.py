"""The command `token-broker`. Nothing else imports it; commands speak HTTP to a running broker for themselves."""

from broker.cli.main import main

__all__ = ["main"]
