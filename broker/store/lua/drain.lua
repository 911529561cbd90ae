#!lua
-- drain: let no broker claim for a while; what is under way is still recorded. Then the fence opens by itself.
--
-- KEYS: epoch
-- ARGV: for_ms
-- Returns: until when, epoch ms; 0 where the server does not say which run of it this is
local epoch = unpack(KEYS)
local for_ms = unpack(ARGV)

local info = redis.pcall('INFO', 'server')
local run_id = type(info) == 'string' and string.match(info, 'run_id:(%x+)')
if not run_id then
  return 0
end
-- The fence of another run of the server (see claim), so brokers of every version keep to it. A claim believes a fence
-- as far as `hold_off` goes.
local open_at = now_ms() + for_ms
redis.call('HSET', epoch, 'run_id', run_id, 'open_at', open_at, 'hold_off', for_ms)
return open_at
