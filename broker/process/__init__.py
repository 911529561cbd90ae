"""What any daemon has: a data directory, logs, metrics, heartbeats, systemd's protocol, and orderly ends of tasks.

Knows nothing of grants, providers or Redis.
"""
