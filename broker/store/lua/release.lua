#!lua
-- release: undo a claim whose reply was lost. Nothing was sent for it, so no attempt stays open.
--
-- KEYS: due leased grant_prefix
-- ARGV: claim_id
-- Returns: the count of grants that were released
local due, leased, grant_prefix = unpack(KEYS)
local claim_id = unpack(ARGV)

require_sets(due)
local begins_with, now, released = claim_id .. '-', now_ms(), 0
for _, id in ipairs(redis.call('ZRANGE', leased, 0, -1)) do
  local attempt = read_fields(grant_prefix .. id, 'attempt')[1]
  if attempt and string.sub(attempt, 1, #begins_with) == begins_with then
    redis.call('HDEL', grant_prefix .. id, 'attempt', 'attempt_at', 'attempt_by')
    redis.call('ZREM', leased, id)
    redis.call('ZADD', due, now, id)
    released = released + 1
  end
end
return released
