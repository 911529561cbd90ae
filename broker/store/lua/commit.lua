#!lua flags=allow-oom
-- commit: keep what a token request brought; the same attempt may commit again and again.
--
-- KEYS  1 grant  2 due  3 leased  4 parked  5 provider  6 forgotten  7 attempts
-- ARGV  1 id  2 attempt  3 generation claimed  4 granted at, as claimed  5 refresh at  6 channel
--       7 what to remember of the attempt  8 count of messages, the messages, then fields and values
-- Gives committed, already, superseded, gone, or lost (the store went back behind the claim: restore). Whoever
-- hears superseded or gone revokes what it received.
local grant, due, leased, parked, provider = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, attempt, claimed, refresh_at, channel, messages = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[6], tonumber(ARGV[8])

local held = redis.call('HMGET', grant, 'generation', 'committed', 'granted_at')
if held[2] == attempt then
  return 'already'
end
if not held[1] then
  local forgotten = redis.call('ZSCORE', KEYS[6], id)
  return forgotten and tonumber(forgotten) >= tonumber(claimed) and 'gone' or 'lost'
end
if held[1] ~= claimed then
  if tonumber(held[1]) < tonumber(claimed) then
    return 'lost'
  end
  -- granted_at survives rotation and changes at a login or import: with the same one, what is there came of ours.
  return held[3] == ARGV[4] and 'already' or 'superseded'
end

redis.call('HDEL', grant, 'attempt', 'attempt_at', 'attempt_by', 'unknown_at', 'reason', 'failures')
redis.call('HSET', grant, 'committed', attempt, 'refresh_at', refresh_at, unpack(ARGV, 9 + messages))
redis.call('ZREM', leased, id)
redis.call('ZREM', parked, id)
redis.call('ZADD', due, refresh_at, id)
redis.call('HDEL', provider, 'not_before', 'suspended', 'suspended_at', 'ailing', 'ailing_at', 'probes', 'refused', 'detail')

record_attempt(KEYS[7], 'kept', ARGV[7])
-- Last and protected: a publish that fails must not make a stored token look lost.
for i = 9, 8 + messages do
  redis.pcall('PUBLISH', channel, ARGV[i])
end
return 'committed'
