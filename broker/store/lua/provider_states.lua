#!lua
-- provider_states: read the health of providers, and how many grants each has in each state.
--
-- KEYS: keys...
-- ARGV: facts...
--   keys: four for each provider: what is known of its health, and its parked, leased and due grants
--   facts: names of what is known of a provider's health
-- Returns: for each provider the values of the facts, nil where there is none, and the sizes of the three sets
local keys = KEYS
local facts = ARGV

local reply = {}
for i = 1, #keys, 4 do
  local health = read_fields(keys[i], unpack(facts))
  for j = 1, #facts do
    reply[#reply + 1] = health[j]
  end
  for j = 1, 3 do
    reply[#reply + 1] = redis.call('ZCARD', keys[i + j])
  end
end
return reply
