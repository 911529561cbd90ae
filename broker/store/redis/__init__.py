"""The connection to the one Redis primary: found, used, and found again when it is elsewhere.

The only importer of the library `redis`. Knows nothing of grants: it runs scripts and commands, bounded in time.
"""
