#!lua
-- rewind: the server's clock was set back. Grants whose token was issued "in the future" are due as far from
-- now as they were meant to be from their issue, and a lease ends as if it began now, so that none waits for a
-- clock to catch up.
--
-- KEYS  1 due  2 leased  3 provider  4 prefix of the grants' keys
-- ARGV  1 offset  2 how many to look at  3 lease in ms
-- Gives how many were looked at; the last call (fewer than asked) marks the clock as seen.
local due, leased, provider, prefix = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local offset, many, lease = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local seen_at = tonumber(redis.call('HGET', provider, 'seen_at') or now)
local ids = redis.call('ZRANGE', due, offset, offset + many - 1)
for _, id in ipairs(ids) do
  local grant = redis.call('HMGET', prefix .. id, 'issued_at', 'refresh_at', 'expires_at', 'failures')
  local issued_at = tonumber(grant[1] or 0)
  if not grant[1] or tonumber(grant[4] or 0) > 0 then
    -- It waits for its first token, or backs off: by what was left of that when the clock was last seen.
    local score = tonumber(redis.call('ZSCORE', due, id))
    redis.call('ZADD', due, math.min(score, now + math.max(0, score - seen_at)), id)
  end
  if issued_at > now + 5000 then
    local back = issued_at - now
    redis.call('HSET', prefix .. id, 'issued_at', now, 'refresh_at', tonumber(grant[2]) - back,
      'expires_at', tonumber(grant[3]) - back)
    redis.call('ZADD', due, 'LT', math.max(now, tonumber(grant[2]) - back), id)
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', leased, '(' .. now + lease, '+inf')) do
  redis.call('ZADD', leased, now + lease, id)
end
if #ids < many then
  redis.call('HSET', provider, 'seen_at', now)
  redis.call('HDEL', provider, 'not_before', 'ailing_at')
end
return #ids
