#!lua
-- sizes: count the members of sorted sets, many in one trip.
--
-- KEYS: sets...
-- ARGV: none
-- Returns: the size of each
local sets = KEYS

local reply = {}
for i = 1, #sets do
  reply[i] = redis.call('ZCARD', sets[i])
end
return reply
