#!lua flags=allow-oom
-- forget: remove a grant and every trace of it.
--
-- KEYS: grant held_by forgotten attempts sets...
-- ARGV: grant_id provider channel message up_to forgotten_at
--   sets: of the provider; where the hash does not say whose the grant is, all that the grant is in
--   provider: the one that the sets belong to, or ""
--   up_to: the newest generation to forget, or ""
--   forgotten_at: when the grant was forgotten, if a journal is replayed, or ""
-- Returns: forgotten, moved (read again), newer or gone
local grant, held_by, forgotten, attempts = unpack(KEYS)
local sets = {unpack(KEYS, 5)}
local grant_id, provider, channel, message, up_to, forgotten_at = unpack(ARGV)
up_to, forgotten_at = maybe_number(up_to), maybe_number(forgotten_at)

local stored, damaged = read_fields(grant, 'provider', 'imported', 'generation')
local now = now_ms()
damaged = damaged or stored[1] and not is_grant_id(stored[1]) -- nobody knows whose it is
if not stored[1] and not damaged then
  if forgotten_at then
    redis.call('ZADD', forgotten, 'GT', forgotten_at, grant_id)
  end
  return 'gone'
end
if stored[1] ~= provider and not damaged then
  return 'moved'
end
if up_to and number(stored[3], 0) > up_to then
  return 'newer'
end
if stored[2] then
  -- The newest fingerprint: the older ones were removed when they were replaced.
  redis.call('HDEL', held_by, string.match(stored[2], '%x+') or '')
end
redis.call('ZREMRANGEBYSCORE', forgotten, '-inf', now - FORGOTTEN_FOR_MS)
-- Forgotten as of then, not of now: a login since is not forgotten, even if it has yet to reach the store.
redis.call('ZADD', forgotten, 'GT', math.max(forgotten_at or now, number(stored[3], 0)), grant_id)
redis.call('DEL', grant, attempts)
for i = 1, #sets do
  redis.call('ZREM', sets[i], grant_id)
end
redis.pcall('PUBLISH', channel, message)
return 'forgotten'
