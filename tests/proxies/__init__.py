"""Reverse proxies in front of services, as the recipes in deploy/proxies say."""
