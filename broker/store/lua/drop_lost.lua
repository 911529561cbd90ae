#!lua
-- drop_lost: note that a grant is lost no longer.
--
-- KEYS: lost
-- ARGV: grant_id
-- Returns: 1 where it was noted as lost, else 0
local lost = unpack(KEYS)
local grant_id = unpack(ARGV)

return redis.call('HDEL', lost, grant_id)
