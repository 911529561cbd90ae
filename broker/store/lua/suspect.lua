#!lua flags=allow-oom
-- suspect: have subjects looked at before all others; one that stands in the schedule already stays where it is.
--
-- KEYS  1 subjects  2 meta
-- ARGV  1 id of the store we know  then the subjects
-- Gives {status}: ok or foreign.
if redis.call('HGET', KEYS[2], 'store') ~= ARGV[1] then
  return {'foreign'}
end
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], 'NX', 0, ARGV[i])
end
return {'ok'}
