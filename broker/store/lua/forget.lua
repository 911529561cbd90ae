#!lua flags=allow-oom
-- forget: remove a grant and every trace of it.
--
-- KEYS  1 grant  2 due  3 leased  4 parked  5 held  6 forgotten
-- ARGV  1 id  2 provider its keys were named by  3 channel  4 message  5 the newest generation to forget, or ""
-- Gives forgotten, moved (read again), newer or gone.
local grant, id = KEYS[1], ARGV[1]
local held = redis.call('HMGET', grant, 'provider', 'imported', 'generation')
if not held[1] then
  return 'gone'
end
if held[1] ~= ARGV[2] then
  return 'moved'
end
if ARGV[5] ~= '' and tonumber(held[3]) > tonumber(ARGV[5]) then
  return 'newer'
end
if held[2] then
  redis.call('HDEL', KEYS[5], held[2])
end
-- Remembered for a month, so that no journal brings it back.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', now - 2592000000)
redis.call('ZADD', KEYS[6], math.max(now, tonumber(held[3])), id)
redis.call('DEL', grant)
redis.call('ZREM', KEYS[2], id)
redis.call('ZREM', KEYS[3], id)
redis.call('ZREM', KEYS[4], id)
redis.pcall('PUBLISH', ARGV[3], ARGV[4])
return 'forgotten'
