#!lua
-- receive: write one part of a key that is copied from another Redis.
--
-- KEYS: key
-- ARGV: kind begins ttl_ms values...
--   kind: hash, zset, list or string; none removes the key
--   begins: "", or "begins": the first part, which replaces what is there
--   ttl_ms: "", or after how long the key expires
--   values: as HSET, ZADD, RPUSH or SET takes them
-- Returns: 1
local key = unpack(KEYS)
local kind, begins, ttl_ms = unpack(ARGV)
local values = {unpack(ARGV, 4)}

local write = {hash = 'HSET', zset = 'ZADD', list = 'RPUSH', string = 'SET'}
if begins ~= '' then
  redis.call('DEL', key)
end
if write[kind] then
  redis.call(write[kind], key, unpack(values))
  if ttl_ms ~= '' then
    redis.call('PEXPIRE', key, ttl_ms)
  end
end
return 1
