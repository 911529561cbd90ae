#!lua flags=allow-oom
-- forget: remove a grant and every trace of it.
--
-- KEYS: grant due leased parked ends failing held_by forgotten attempts
-- ARGV: grant_id provider channel message up_to forgotten_at
--   provider: the one that the sets belong to
--   up_to: the newest generation to forget, or ""
--   forgotten_at: when the grant was forgotten, if a journal is replayed, or ""
-- Returns: forgotten, moved (read again), newer or gone
local grant, due, leased, parked, ends, failing, held_by, forgotten, attempts = unpack(KEYS)
local grant_id, provider, channel, message, up_to, forgotten_at = unpack(ARGV)
up_to, forgotten_at = tonumber(up_to), tonumber(forgotten_at)

local stored = redis.call('HMGET', grant, 'provider', 'imported', 'generation')
local now = now_ms()
if not stored[1] then
  if forgotten_at then
    redis.call('ZADD', forgotten, 'GT', forgotten_at, grant_id)
  end
  return 'gone'
end
if stored[1] ~= provider then
  return 'moved'
end
if up_to and tonumber(stored[3]) > up_to then
  return 'newer'
end
if stored[2] then
  -- The newest fingerprint: the older ones were removed when they were replaced.
  redis.call('HDEL', held_by, string.match(stored[2], '%x+'))
end
redis.call('ZREMRANGEBYSCORE', forgotten, '-inf', now - FORGOTTEN_FOR_MS)
-- Forgotten as of then, not of now: a login since is not forgotten, even if it has yet to reach the store.
redis.call('ZADD', forgotten, 'GT', math.max(forgotten_at or now, tonumber(stored[3])), grant_id)
redis.call('DEL', grant, attempts)
redis.call('ZREM', due, grant_id)
redis.call('ZREM', leased, grant_id)
redis.call('ZREM', parked, grant_id)
redis.call('ZREM', ends, grant_id)
redis.call('ZREM', failing, grant_id)
redis.pcall('PUBLISH', channel, message)
return 'forgotten'
