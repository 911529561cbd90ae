"""Logging in and out: from a login link to a registered grant, and from a grant to its revocation.

Knows nothing of HTTP requests to this broker: `api` shows the pages.
"""
