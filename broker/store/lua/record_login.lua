#!lua
-- record_login: keep a pending login for its life, or put what became of it in place of one that is still there.
--
-- KEYS  1 flow
-- ARGV  1 the flow, sealed  2 its life in s, or "": only in place of another, for what is left of its life
-- Gives what was there before.
local before = redis.call('GET', KEYS[1])
if ARGV[2] ~= '' then
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
elseif before then
  redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL')
end
return before
