#!lua
-- retry: a person has a grant tried once more, whether it is parked or backing off.
--
-- KEYS: grant due leased parked ends failing
-- ARGV: grant_id provider
--   provider: the one that the sets belong to
-- Returns: due, leased, moved (read again) or gone
local grant, due, leased, parked, ends, failing = unpack(KEYS)
local grant_id, provider = unpack(ARGV)

require_sets(due)
local immovable = why_immovable(grant, leased, grant_id, provider)
if immovable then
  return immovable
end
note_recovering(grant)
redis.call('HDEL', grant, 'reason', 'failures', 'refused')
redis.call('ZREM', parked, grant_id)
redis.call('ZADD', due, now_ms(), grant_id)
index_grant(grant, ends, failing, grant_id)
return 'due'
