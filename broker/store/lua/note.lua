#!lua
-- note: write facts about the whole store into `meta`.
--
-- KEYS: meta
-- ARGV: counter count fields...
--   counter: field to add count to, or ""
--   fields: fields of meta, each with its value
-- Returns: nothing
local meta = unpack(KEYS)
local counter, count = unpack(ARGV)
local fields = {unpack(ARGV, 3)}

if counter ~= '' then
  redis.call('HINCRBY', meta, counter, count)
end
if #fields > 0 then
  redis.call('HSET', meta, unpack(fields))
end
