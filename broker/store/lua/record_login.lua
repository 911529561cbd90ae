#!lua
-- record_login: keep a pending login for its life, or replace one that is still there by how it went on.
--
-- KEYS: flow
-- ARGV: sealed life_s seen
--   life_s: "" to replace a flow that is there, for what is left of its life
--   seen: replace it only where it is still this; "" for whatever it is
-- Returns: what was there before
local flow = unpack(KEYS)
local sealed, life_s, seen = unpack(ARGV)

local before = redis.call('GET', flow)
if life_s ~= '' then
  redis.call('SET', flow, sealed, 'EX', life_s)
elseif before and (seen == '' or before == seen) then
  redis.call('SET', flow, sealed, 'KEEPTTL')
end
return before
