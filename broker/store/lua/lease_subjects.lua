#!lua flags=allow-oom
-- lease_subjects: lease up to n subjects of one way of telling people that are due to be looked at.
--
-- KEYS  1 subjects  2 told
-- ARGV  1 n  2 lease in ms
-- Gives {now, {subject, what it was told or "", end of the lease}...}.
local subjects, told = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local reply = {now}
for _, subject in ipairs(redis.call('ZRANGEBYSCORE', subjects, '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local ends = now + ARGV[2]
  redis.call('ZADD', subjects, ends, subject)
  reply[#reply + 1] = {subject, redis.call('HGET', told, subject) or '', ends}
end
return reply
