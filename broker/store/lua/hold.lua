#!lua
-- hold: lease one named grant, wherever it is, so that nobody refreshes it meanwhile (for a log out).
--
-- KEYS  1 grant  2 due  3 leased  4 parked
-- ARGV  1 id  2 provider its keys were named by  3 lease in ms
-- Gives held, leased, moved (read again) or gone. The hold ends like any lease, or by forget or release.
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
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREM', due, id)
redis.call('ZREM', parked, id)
redis.call('ZADD', leased, now + ARGV[3], id)
return 'held'
