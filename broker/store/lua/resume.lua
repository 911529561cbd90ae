#!lua
-- resume: a person takes a provider up again: no suspension, no pause, no count of failures.
--
-- KEYS  1 provider
-- Gives the ids that the breaker had seen refused.
local refused = redis.call('HGET', KEYS[1], 'refused') or ''
redis.call('HDEL', KEYS[1], 'not_before', 'suspended', 'suspended_at', 'ailing', 'ailing_at', 'probes', 'refused', 'detail')
return refused
