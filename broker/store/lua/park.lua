#!lua flags=allow-oom
-- park: a refusal; no more requests for this grant until a person or a retry. The breaker: when `breaker` grants of
-- one provider in a row were refused, the next one suspends the provider instead of being parked.
--
-- KEYS: grant due leased parked provider attempts
-- ARGV: grant_id attempt reason detail breaker first_pause_ms longest_pause_ms channel message record fields...
--   breaker: grants in a row; 0: the refusal says nothing of the provider
--   record: the entry of the grant's attempts, without the decision
--   fields: fields of the grant, each with its value
-- Returns: parked, suspended, superseded or gone
local grant, due, leased, parked, provider, attempts = unpack(KEYS)
local grant_id, attempt, reason, detail, breaker, first_pause_ms, longest_pause_ms, channel, message,
  record = unpack(ARGV)
local fields = {unpack(ARGV, 11)}
breaker, first_pause_ms, longest_pause_ms = tonumber(breaker), tonumber(first_pause_ms), tonumber(longest_pause_ms)

local stored = redis.call('HMGET', grant, 'generation', 'attempt', 'attempt_at')
if not stored[1] then
  return 'gone'
end
if stored[2] ~= attempt then
  return 'superseded'
end
local now = now_ms()

redis.call('HDEL', grant, 'attempt', 'attempt_at', 'attempt_by', 'unknown_at')
redis.call('HSET', grant, unpack(fields))
redis.call('ZREM', leased, grant_id)

if breaker > 0 then
  local refused, known = {}, false
  for other in string.gmatch(redis.call('HGET', provider, 'refused') or '', '%S+') do
    refused[#refused + 1] = other
    known = known or other == grant_id
  end

  if not known and #refused >= breaker then
    local lane = redis.call('HMGET', provider, 'probes', 'ailing_at')
    local probes, since = tonumber(lane[1] or 0), tonumber(lane[2] or 0)
    if probes == 0 or tonumber(stored[3]) >= since then
      probes = probes + 1
      local pause = math.min(longest_pause_ms, first_pause_ms * 2 ^ math.min(probes - 1, 16))
      redis.call('HSET', provider, 'probes', probes, 'ailing_at', now, 'not_before', now + pause)
    end
    redis.call('HSET', provider, 'suspended', reason, 'detail', detail)
    redis.call('HSETNX', provider, 'suspended_at', now)
    -- Behind the others, so that the next probe tries another grant.
    redis.call('ZADD', due, now + longest_pause_ms, grant_id)
    record_attempt(attempts, 'suspended', record)
    return 'suspended'
  end

  if not known then
    refused[#refused + 1] = grant_id
    redis.call('HSET', provider, 'refused', table.concat(refused, ' '))
  end
  -- The provider answered, so it is not ailing; it accepts this client, so a suspension of the registration is over.
  redis.call('HDEL', provider, 'not_before', 'ailing', 'ailing_at', 'probes', 'suspended', 'suspended_at', 'detail')
end
redis.call('HSET', grant, 'reason', reason)
redis.call('ZADD', parked, now, grant_id)
record_attempt(attempts, 'parked', record)
redis.pcall('PUBLISH', channel, message)
return 'parked'
