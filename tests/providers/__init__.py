"""Tests of `broker.providers`."""
