#!lua flags=allow-oom
-- enqueue_subjects: make subjects due before all others; one that is in the schedule already stays where it is.
--
-- KEYS: subjects
-- ARGV: names...
-- Returns: nothing
local subjects = unpack(KEYS)
local names = ARGV

for i = 1, #names do
  redis.call('ZADD', subjects, 'NX', 0, names[i])
end
