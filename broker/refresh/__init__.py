"""The write path: from a due grant to a committed token.

`policy` decides, `scheduler` claims, `refresher` does. Knows nothing of callers, and of HTTP only outcomes.
"""
