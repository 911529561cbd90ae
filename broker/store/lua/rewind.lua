#!lua
-- rewind: the server's clock was set back. What was planned before moves back by as much, and a lease ends as if it
-- began now, so that no token outlives its end and no grant waits for the clock to catch up.
--
-- KEYS: ids leased provider epoch grant_prefix
-- ARGV: offset page_size lease_ms at back_ms
--   ids: the due or the parked grants of the provider
--   at, back_ms: when the clock was found set back, by the new time, and by how much; "" where the caller does not know
-- Returns: {count of grants that were examined, at, back_ms}
--   at, back_ms: as all brokers have it, from whoever found it first
--   After the last call for a set (fewer than page_size) the clock counts as seen.
local ids, leased, provider, epoch, grant_prefix = unpack(KEYS)
local offset, page_size, lease_ms, at, back_ms = unpack(ARGV)
page_size, at, back_ms = tonumber(page_size), tonumber(at), tonumber(back_ms)

local now = now_ms()
local known = redis.call('HMGET', epoch, 'set_back_at', 'set_back_by')
local known_at, known_by = tonumber(known[1]), tonumber(known[2])
if not at then
  -- Nobody who saw the clock before is here: it went back at least to now from when it was last seen.
  at, back_ms = now, math.max(0, tonumber(redis.call('HGET', provider, 'seen_at') or now) - now)
end
if known_at and math.abs(known_at - at) < SAME_SET_BACK_MS then
  at, back_ms = math.min(at, known_at), known_by
end
redis.call('HSET', epoch, 'set_back_at', at, 'set_back_by', back_ms)

local found = redis.call('ZRANGE', ids, offset, offset + page_size - 1, 'WITHSCORES')
for i = 1, #found, 2 do
  local grant, score = grant_prefix .. found[i], tonumber(found[i + 1])
  local stored = redis.call('HMGET', grant, 'issued_at', 'refresh_at', 'expires_at', 'unknown_at', 'rewound')
  local issued_at, rewound = tonumber(stored[1] or 0), tonumber(stored[5] or 0)
  local ahead = issued_at > now + 5000
  -- As in store/clock.py, which does the same with what is read meanwhile.
  if ahead or math.abs(rewound - at) >= SAME_SET_BACK_MS and not (stored[1] and issued_at >= at) then
    local back = math.max(back_ms, issued_at - now)
    redis.call('HSET', grant, 'rewound', at)
    if stored[1] then
      redis.call('HSET', grant, 'issued_at', issued_at - back, 'refresh_at', stored[2] - back,
        'expires_at', stored[3] - back)
    end
    if stored[4] then
      redis.call('HSET', grant, 'unknown_at', stored[4] - back)
    end
    redis.call('ZADD', ids, 'XX', score - back, found[i])
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', leased, '(' .. now + lease_ms, '+inf')) do
  redis.call('ZADD', leased, now + lease_ms, id)
end
if #found / 2 < page_size then
  redis.call('HSET', provider, 'seen_at', now)
  redis.call('HDEL', provider, 'not_before', 'ailing_at', 'witness_at', 'doubted_at')
end
return {#found / 2, at, back_ms}
