#!lua
-- record_login: keep a pending login for its life, or replace one that is still there by how it went on.
--
-- KEYS: flow
-- ARGV: sealed life_s
--   life_s: "" to replace a flow that is there, for what is left of its life
-- Returns: what was there before
local flow = unpack(KEYS)
local sealed, life_s = unpack(ARGV)

local before = redis.call('GET', flow)
if life_s ~= '' then
  redis.call('SET', flow, sealed, 'EX', life_s)
elseif before then
  redis.call('SET', flow, sealed, 'KEEPTTL')
end
return before
