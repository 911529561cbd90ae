#!lua flags=allow-oom
-- park: a refusal; no more requests for this grant until a person or a retry. The breaker: when `breaker`
-- grants of one provider in a row were refused, the next one suspends the provider instead of being parked.
--
-- KEYS  1 grant  2 due  3 leased  4 parked  5 provider  6 attempts
-- ARGV  1 id  2 attempt  3 reason  4 detail  5 breaker (grants in a row; 0: no word of the provider)  6 first pause in ms
--       7 longest pause in ms  8 channel  9 message
--       10 what to remember of the attempt  then fields and values
-- Gives parked, suspended, superseded or gone.
local grant, due, leased, parked, provider = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, attempt, reason, breaker = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5])
local first, longest = tonumber(ARGV[6]), tonumber(ARGV[7])

local held = redis.call('HMGET', grant, 'generation', 'attempt', 'attempt_at')
if not held[1] then
  return 'gone'
end
if held[2] ~= attempt then
  return 'superseded'
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

redis.call('HDEL', grant, 'attempt', 'attempt_at', 'attempt_by', 'unknown_at')
redis.call('HSET', grant, unpack(ARGV, 11))
redis.call('ZREM', leased, id)

if breaker > 0 then
  local refused, known = {}, false
  for other in string.gmatch(redis.call('HGET', provider, 'refused') or '', '%S+') do
    refused[#refused + 1] = other
    known = known or other == id
  end

  if not known and #refused >= breaker then
    local lane = redis.call('HMGET', provider, 'probes', 'ailing_at')
    local probes, since = tonumber(lane[1] or 0), tonumber(lane[2] or 0)
    if probes == 0 or tonumber(held[3]) >= since then
      probes = probes + 1
      local pause = math.min(longest, first * 2 ^ math.min(probes - 1, 16))
      redis.call('HSET', provider, 'probes', probes, 'ailing_at', now, 'not_before', now + pause)
    end
    redis.call('HSET', provider, 'suspended', reason, 'detail', ARGV[4])
    redis.call('HSETNX', provider, 'suspended_at', now)
    -- Behind the others, so that the next probe tries another grant.
    redis.call('ZADD', due, now + longest, id)
    record_attempt(KEYS[6], 'suspended', ARGV[10])
    return 'suspended'
  end

  if not known then
    refused[#refused + 1] = id
    redis.call('HSET', provider, 'refused', table.concat(refused, ' '))
  end
  -- It answered, so it is not ailing; and it knows us, so a suspension for our registration is over.
  redis.call('HDEL', provider, 'not_before', 'ailing', 'ailing_at', 'probes', 'suspended', 'suspended_at', 'detail')
end
redis.call('HSET', grant, 'reason', reason)
redis.call('ZADD', parked, now, id)
record_attempt(KEYS[6], 'parked', ARGV[10])
redis.pcall('PUBLISH', ARGV[8], ARGV[9])
return 'parked'
