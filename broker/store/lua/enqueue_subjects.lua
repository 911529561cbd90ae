#!lua flags=allow-oom
-- enqueue_subjects: have subjects looked at before all others; one that stands in the schedule already stays where it is.
--
-- KEYS  1 subjects
-- ARGV  the subjects
for i = 1, #ARGV do
  redis.call('ZADD', KEYS[1], 'NX', 0, ARGV[i])
end
