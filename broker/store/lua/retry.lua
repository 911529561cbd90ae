#!lua
-- retry: a person takes a grant up once more, whether it is parked or backing off.
--
-- KEYS  1 grant  2 due  3 leased  4 parked
-- ARGV  1 id  2 provider its keys were named by
-- Gives due, leased, moved (read again) or gone.
local grant, due, leased, parked, id = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
local provider = redis.call('HGET', grant, 'provider')
if not provider then
  return 'gone'
end
if provider ~= ARGV[2] then
  return 'moved'
end
if redis.call('ZSCORE', leased, id) then
  return 'leased'
end
local time = redis.call('TIME')
redis.call('HDEL', grant, 'reason', 'failures')
redis.call('ZREM', parked, id)
redis.call('ZADD', due, time[1] * 1000 + math.floor(time[2] / 1000), id)
return 'due'
