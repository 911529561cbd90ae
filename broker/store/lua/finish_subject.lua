#!lua flags=allow-oom
-- finish_subject: write down what came of a look, as long as its lease is ours.
--
-- KEYS  1 subjects  2 told
-- ARGV  1 subject  2 end of the lease as it was given  3 what it was told, or ""  4 when to look again, "" for never
-- Gives noted or superseded. Nobody else looks before that time, so one further from now keeps the lease.
local subjects, told, subject = KEYS[1], KEYS[2], ARGV[1]
local ends = redis.call('ZSCORE', subjects, subject)
if not ends or tonumber(ends) ~= tonumber(ARGV[2]) then
  return 'superseded'
end
if ARGV[3] == '' then
  redis.call('HDEL', told, subject)
else
  redis.call('HSET', told, subject, ARGV[3])
end
if ARGV[4] == '' then
  redis.call('ZREM', subjects, subject)
else
  redis.call('ZADD', subjects, ARGV[4], subject)
end
return 'noted'
