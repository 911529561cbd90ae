#!lua
-- rewind: the server's clock was set back. Grants whose token was issued "in the future" become due as far from now as
-- they were meant to be from their issue, and a lease ends as if it began now, so that none waits for a clock to catch
-- up.
--
-- KEYS: due leased ends failing provider grant_prefix
-- ARGV: offset page_size lease_ms
-- Returns: the count of grants that were examined; the last call (fewer than page_size) marks the clock as seen
local due, leased, ends, failing, provider, grant_prefix = unpack(KEYS)
local offset, page_size, lease_ms = unpack(ARGV)
page_size = tonumber(page_size)

local now = now_ms()
local seen_at = tonumber(redis.call('HGET', provider, 'seen_at') or now)
local ids = redis.call('ZRANGE', due, offset, offset + page_size - 1)
for _, id in ipairs(ids) do
  local stored = redis.call('HMGET', grant_prefix .. id, 'issued_at', 'refresh_at', 'expires_at', 'failures')
  local issued_at = tonumber(stored[1] or 0)
  if not stored[1] or tonumber(stored[4] or 0) > 0 then
    -- It waits for its first token, or backs off: for as long as was left when the clock was last seen.
    local score = tonumber(redis.call('ZSCORE', due, id))
    redis.call('ZADD', due, math.min(score, now + math.max(0, score - seen_at)), id)
  end
  if issued_at > now + 5000 then
    local back = issued_at - now
    redis.call('HSET', grant_prefix .. id, 'issued_at', now, 'refresh_at', tonumber(stored[2]) - back,
      'expires_at', tonumber(stored[3]) - back)
    redis.call('ZADD', due, 'LT', math.max(now, tonumber(stored[2]) - back), id)
    index_grant(grant_prefix .. id, ends, failing, id)
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', leased, '(' .. now + lease_ms, '+inf')) do
  redis.call('ZADD', leased, now + lease_ms, id)
end
if #ids < page_size then
  redis.call('HSET', provider, 'seen_at', now)
  redis.call('HDEL', provider, 'not_before', 'ailing_at', 'witness_at', 'doubted_at')
end
return #ids
