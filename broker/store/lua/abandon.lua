#!lua
-- abandon: shorten the leases of a process that is known to be dead, as far as its requests may still be on their way.
-- The attempts stay open: nobody will say how they ended.
--
-- KEYS: leased grant_prefix
-- ARGV: life longest_ms
--   life: the id of the dead process, with which the id of each of its attempts begins
--   longest_ms: longest time from a claim to the end of its request
-- Returns: the count of leases that the process held
local leased, grant_prefix = unpack(KEYS)
local life, longest_ms = unpack(ARGV)

local begins_with, now, held = life .. '.', now_ms(), 0
for _, id in ipairs(redis.call('ZRANGE', leased, 0, -1)) do
  local stored = read_fields(grant_prefix .. id, 'attempt', 'attempt_at')
  if stored[1] and string.sub(stored[1], 1, #begins_with) == begins_with then
    -- The mark: this lease gets no second term.
    redis.call('ZADD', leased, 'LT', math.max(now, number(stored[2], now) + longest_ms) + SECOND_TERM_MARK, id)
    held = held + 1
  end
end
return held
