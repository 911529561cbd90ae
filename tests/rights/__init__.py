"""Rights, quotas, refusals and the audit stream."""
