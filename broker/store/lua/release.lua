#!lua
-- release: undo a claim whose reply was lost. Nothing was sent for it, so no attempt stays open.
--
-- KEYS  1 due  2 leased  3 prefix of the grants' keys
-- ARGV  1 claim id
-- Gives how many grants were released.
local due, leased, prefix, claim_id = KEYS[1], KEYS[2], KEYS[3], ARGV[1] .. '-'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local released = 0
for _, id in ipairs(redis.call('ZRANGE', leased, 0, -1)) do
  local attempt = redis.call('HGET', prefix .. id, 'attempt')
  if attempt and string.sub(attempt, 1, #claim_id) == claim_id then
    redis.call('HDEL', prefix .. id, 'attempt', 'attempt_at', 'attempt_by')
    redis.call('ZREM', leased, id)
    redis.call('ZADD', due, now, id)
    released = released + 1
  end
end
return released
