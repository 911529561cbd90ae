"""What any daemon has: a data directory, logs, metrics, heartbeats, systemd's protocol, and tasks that end well.

Knows nothing of grants, providers or Redis.
"""
