"""The write path: from a due grant to a committed token.

`scheduler` claims, `refresher` makes the token request, `policy` decides what its outcome means, `recorder` journals
and commits it. Knows nothing of callers, and of HTTP only outcomes.
"""
