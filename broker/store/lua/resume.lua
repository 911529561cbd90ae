#!lua
-- resume: a person resumes a provider: no suspension, no pause, no count of failures.
--
-- KEYS: provider
-- ARGV: none
-- Returns: the ids of the grants that the breaker had seen refused, separated by blanks
local provider = unpack(KEYS)

local refused = redis.call('HGET', provider, 'refused') or ''
redis.call('HDEL', provider, 'not_before', 'suspended', 'suspended_at', 'ailing', 'ailing_at', 'probes', 'refused',
  'detail', 'witness_at', 'witnesses', 'doubted', 'doubted_at')
return refused
