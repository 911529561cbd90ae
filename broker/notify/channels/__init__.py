"""The channels that carry a notice to people: a webhook and a command."""
