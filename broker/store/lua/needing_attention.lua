#!lua
-- needing_attention: which of these grants people may have to be told of.
--
-- KEYS  1 prefix of the grants' keys (all in one slot)
-- ARGV  1 failures in a row that are worth a word  2 an end before that is, too (epoch ms)  then ids
-- Gives those that are parked, that fail, or that end soon.
local prefix, failing, soon = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local reply = {}
for i = 3, #ARGV do
  local grant = redis.call('HMGET', prefix .. ARGV[i], 'reason', 'failures', 'reauthorize_by')
  if grant[1] or tonumber(grant[2] or 0) >= failing or grant[3] and tonumber(grant[3]) <= soon then
    reply[#reply + 1] = ARGV[i]
  end
end
return reply
