#!lua flags=allow-oom
-- rename: give a store another id, and other facts beside it: brokers run in it no more, or again.
--
-- KEYS: named epoch
-- ARGV: fence removed_count names_then_fields...
--   named: the hash `meta`
--   fence: "", or "fence": nobody claims before every journal was replayed
--   names_then_fields: removed_count fields to remove, then fields to write, each with its value
-- Returns: 1
local named, epoch = unpack(KEYS)
local fence, removed_count = unpack(ARGV)
local names_then_fields = {unpack(ARGV, 3)}
removed_count = tonumber(removed_count)

for i = 1, removed_count do
  redis.call('HDEL', named, names_then_fields[i])
end
for i = removed_count + 1, #names_then_fields, 2 do
  redis.call('HSET', named, names_then_fields[i], names_then_fields[i + 1])
end
if fence ~= '' then
  redis.call('HSET', epoch, 'run_id', 'moved')
end
return 1
