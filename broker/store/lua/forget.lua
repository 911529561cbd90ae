#!lua flags=allow-oom
-- forget: remove a grant and every trace of it.
--
-- KEYS  1 grant  2 due  3 leased  4 parked  5 held  6 forgotten  7 attempts
-- ARGV  1 id  2 provider its keys were named by  3 channel  4 message  5 the newest generation to forget, or ""
--       6 when it was forgotten, where a journal says so again, or ""
-- Gives forgotten, moved (read again), newer or gone.
local grant, id = KEYS[1], ARGV[1]
local held = redis.call('HMGET', grant, 'provider', 'imported', 'generation')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- As of then, not of now: a login since is not forgotten, even if the store has yet to be told of it.
local forgotten_at = tonumber(ARGV[6]) or now
if not held[1] then
  if ARGV[6] ~= '' then
    redis.call('ZADD', KEYS[6], 'GT', forgotten_at, id)
  end
  return 'gone'
end
if held[1] ~= ARGV[2] then
  return 'moved'
end
if ARGV[5] ~= '' and tonumber(held[3]) > tonumber(ARGV[5]) then
  return 'newer'
end
if held[2] then
  redis.call('HDEL', KEYS[5], string.match(held[2], '%x+')) -- the newest: the others are let go already
end
-- Remembered for a month, so that no journal brings it back.
redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', now - 2592000000)
redis.call('ZADD', KEYS[6], 'GT', math.max(forgotten_at, tonumber(held[3])), id)
redis.call('DEL', grant, KEYS[7])
redis.call('ZREM', KEYS[2], id)
redis.call('ZREM', KEYS[3], id)
redis.call('ZREM', KEYS[4], id)
redis.pcall('PUBLISH', ARGV[3], ARGV[4])
return 'forgotten'
