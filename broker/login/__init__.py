"""Log in and out: from a login link to a registered grant, and from a grant to its revocation.

`login` follows a login, `redirect` reads what a browser came back with, `recorder` records what that brought, and
`logout` ends a grant. Knows nothing of HTTP requests to this broker: `api` shows the pages.
"""
