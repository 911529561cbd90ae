#!lua flags=allow-oom
-- forget: remove a grant and every trace of it.
--
-- KEYS  1 grant  2 due  3 leased  4 parked  5 held
-- ARGV  1 id  2 provider its keys were named by  3 channel  4 message
-- Gives forgotten, moved (read again) or gone.
local grant, id = KEYS[1], ARGV[1]
local held = redis.call('HMGET', grant, 'provider', 'imported')
if not held[1] then
  return 'gone'
end
if held[1] ~= ARGV[2] then
  return 'moved'
end
if held[2] then
  redis.call('HDEL', KEYS[5], held[2])
end
redis.call('DEL', grant)
redis.call('ZREM', KEYS[2], id)
redis.call('ZREM', KEYS[3], id)
redis.call('ZREM', KEYS[4], id)
redis.pcall('PUBLISH', ARGV[3], ARGV[4])
return 'forgotten'
