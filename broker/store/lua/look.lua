#!lua flags=allow-oom
-- look: lease up to n subjects of one way of telling people that are due to be looked at.
--
-- KEYS  1 subjects  2 told  3 meta
-- ARGV  1 id of the store we know  2 n  3 lease in ms
-- Gives {status, now, {subject, what it was told or "", end of the lease}...}; status: ok or foreign.
local subjects, told, meta = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('HGET', meta, 'store') ~= ARGV[1] then
  return {'foreign', now}
end
local reply = {'ok', now}
for _, subject in ipairs(redis.call('ZRANGEBYSCORE', subjects, '-inf', now, 'LIMIT', 0, ARGV[2])) do
  local ends = now + ARGV[3]
  redis.call('ZADD', subjects, ends, subject)
  reply[#reply + 1] = {subject, redis.call('HGET', told, subject) or '', ends}
end
return reply
