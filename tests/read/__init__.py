"""What callers are served from."""
