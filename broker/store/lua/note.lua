#!lua
-- note: write facts into a hash of them: about the whole store (`meta`), or about a provider.
--
-- KEYS: facts
-- ARGV: counter count fields...
--   counter: field to add count to, or ""
--   fields: fields of the hash, each with its value
-- Returns: nothing
local facts = unpack(KEYS)
local counter, count = unpack(ARGV)
local fields = {unpack(ARGV, 3)}

if counter ~= '' then
  redis.call('HINCRBY', facts, counter, count)
end
if #fields > 0 then
  redis.call('HSET', facts, unpack(fields))
end
