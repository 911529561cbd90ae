#!lua
-- sum_ends: count grants and those without a valid token, and find when the next token ends that is to be refreshed.
--
-- KEYS: sets...
-- ARGV: none
--   sets: two for each provider, its grants by when their tokens end, and those of them that are failing
-- Returns: for each provider {grants, unserved, next_end}; next_end is "" where none is near (64 failing ones precede it)
local sets = KEYS

local now, reply = now_ms(), {}
for i = 1, #sets, 2 do
  local ends, failing = sets[i], sets[i + 1]
  local unserved, next_end = rank_behind(ends, now), ''
  local few = redis.call('ZCARD', failing) > 0 and 63 or 0
  local page = redis.call('ZRANGE', ends, unserved, unserved + few, 'WITHSCORES')
  for j = 1, #page, 2 do
    if few == 0 or not redis.call('ZSCORE', failing, page[j]) then
      next_end = page[j + 1]
      break
    end
  end
  reply[#reply + 1] = {redis.call('ZCARD', ends), unserved, next_end}
end
return reply
