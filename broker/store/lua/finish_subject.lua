#!lua flags=allow-oom
-- finish_subject: write down what was sent about a subject, as long as the caller still holds its lease.
--
-- KEYS: subjects last_notices
-- ARGV: subject lease_ends record next_at
--   lease_ends: the end of the lease, as it was given
--   record: what people know of the subject now, or "" for nothing
--   next_at: when the subject is due again, or "" for never. Nobody leases it before, so a later time keeps the lease.
-- Returns: noted or superseded
local subjects, last_notices = unpack(KEYS)
local subject, lease_ends, record, next_at = unpack(ARGV)

local ends = redis.call('ZSCORE', subjects, subject)
if not ends or tonumber(ends) ~= tonumber(lease_ends) then
  return 'superseded'
end
if record == '' then
  redis.call('HDEL', last_notices, subject)
else
  redis.call('HSET', last_notices, subject, record)
end
if next_at == '' then
  redis.call('ZREM', subjects, subject)
else
  redis.call('ZADD', subjects, next_at, subject)
end
return 'noted'
