#!lua
-- beginnings: read the first members of sorted sets, one set after the other, until there are as many as wanted.
--
-- KEYS: sets...
-- ARGV: limit
--   limit: most members of one set; the last set is the one with which there are as many in all
-- Returns: of each set that was read its members and their scores
local sets = KEYS
local limit = unpack(ARGV)

local reply, held = {}, 0
for i = 1, #sets do
  reply[i] = redis.call('ZRANGEBYSCORE', sets[i], '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
  held = held + #reply[i] / 2
  if held >= tonumber(limit) then
    break
  end
end
return reply
