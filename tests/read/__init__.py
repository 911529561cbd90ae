"""Tests of what callers are served from."""
