#!lua
-- find_due: find the providers that have something to claim: a grant that is due, or a lease that ends, within a time.
--
-- KEYS: sets...
-- ARGV: within_ms
--   sets: two for each provider, its due grants and its leased ones
-- Returns: the places of the sets (from 1) whose first member's time comes within within_ms
local sets = KEYS
local within_ms = unpack(ARGV)

local by, reply = now_ms() + within_ms, {}
for i = 1, #sets do
  local first = redis.call('ZRANGE', sets[i], 0, 0, 'WITHSCORES')[2]
  if first and tonumber(first) <= by then
    reply[#reply + 1] = i
  end
end
return reply
