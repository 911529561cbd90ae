#!lua flags=allow-oom
-- lease_subjects: lease up to n due subjects of one notification channel.
--
-- KEYS: subjects last_notices
-- ARGV: n lease_ms
-- Returns: {now, {subject, record of its last notice or "", end of the lease}...}
local subjects, last_notices = unpack(KEYS)
local n, lease_ms = unpack(ARGV)

local now = now_ms()
local reply = {now}
for _, subject in ipairs(redis.call('ZRANGEBYSCORE', subjects, '-inf', now, 'LIMIT', 0, n)) do
  local ends = now + lease_ms
  redis.call('ZADD', subjects, ends, subject)
  reply[#reply + 1] = {subject, redis.call('HGET', last_notices, subject) or '', ends}
end
return reply
