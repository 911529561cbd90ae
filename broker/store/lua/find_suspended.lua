#!lua
-- find_suspended: find the providers that are suspended.
--
-- KEYS: providers...
-- ARGV: none
-- Returns: their places (from 1)
local providers = KEYS

local reply = {}
for i = 1, #providers do
  if redis.call('HGET', providers[i], 'suspended') then
    reply[#reply + 1] = i
  end
end
return reply
