"""The connection to the one Redis primary: find it, use it, and find it again after it moved.

The only importer of the library `redis`. Knows nothing of grants: it runs scripts and commands, bounded in time.
"""
