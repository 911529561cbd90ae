#!lua
-- abandon: shorten the leases of a process that is known to be dead, as far as its requests may still be on their way.
-- Their attempts stay open: nobody will say what came of them.
--
-- KEYS  1 leased  2 prefix of the grants' keys
-- ARGV  1 that process's life  2 longest from a claim to the end of its request in ms
-- Gives how many leases it held.
local leased, prefix, life, longest = KEYS[1], KEYS[2], ARGV[1] .. '.', tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = 0
for _, id in ipairs(redis.call('ZRANGE', leased, 0, -1)) do
  local grant = redis.call('HMGET', prefix .. id, 'attempt', 'attempt_at')
  if grant[1] and string.sub(grant[1], 1, #life) == life then
    -- The half millisecond: it has no second term, see claim.
    redis.call('ZADD', leased, 'LT', math.max(now, grant[2] + longest) + 0.5, id)
    held = held + 1
  end
end
return held
