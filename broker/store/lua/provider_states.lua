#!lua
-- provider_states: read the health of providers, and how many grants each has in each state.
--
-- KEYS: keys...
-- ARGV: none
--   keys: four for each provider: what is known of its health, and its parked, leased and due grants
-- Returns: eight items for each provider: suspended, suspended_at, not_before, ailing, detail (false where there is
--   none), and the sizes of the three sets
local keys = KEYS

local reply = {}
for i = 1, #keys, 4 do
  local health = redis.call('HMGET', keys[i], 'suspended', 'suspended_at', 'not_before', 'ailing', 'detail')
  for j = 1, 5 do
    reply[#reply + 1] = health[j]
  end
  for j = 1, 3 do
    reply[#reply + 1] = redis.call('ZCARD', keys[i + j])
  end
end
return reply
