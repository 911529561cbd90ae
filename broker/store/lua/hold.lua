#!lua
-- hold: lease one grant by its id, wherever it is, so that nobody refreshes it meanwhile (for a log out).
--
-- KEYS: grant due leased parked
-- ARGV: grant_id provider lease_ms
--   provider: the one that due, leased and parked belong to
-- Returns: held, leased, moved (read again) or gone. The hold ends like any lease, or by forget or release.
local grant, due, leased, parked = unpack(KEYS)
local grant_id, provider, lease_ms = unpack(ARGV)

require_sets(leased)
local immovable = why_immovable(grant, leased, grant_id, provider)
if immovable then
  return immovable
end
redis.call('ZREM', due, grant_id)
redis.call('ZREM', parked, grant_id)
redis.call('ZADD', leased, now_ms() + lease_ms, grant_id)
return 'held'
