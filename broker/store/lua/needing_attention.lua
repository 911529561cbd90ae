#!lua
-- needing_attention: find the grants that a notice may be about: parked, failing, or ending soon.
--
-- KEYS: grant_prefix
-- ARGV: failures ends_by grant_ids...
--   failures: a grant that failed so often in a row is failing
--   ends_by: a grant that must be reauthorized by then (epoch ms) ends soon
-- Returns: their ids
local grant_prefix = unpack(KEYS)
local failures, ends_by = unpack(ARGV)
local grant_ids = {unpack(ARGV, 3)}
failures, ends_by = tonumber(failures), tonumber(ends_by)

local reply = {}
for i = 1, #grant_ids do
  local stored, damaged = read_fields(grant_prefix .. grant_ids[i], 'reason', 'failures', 'reauthorize_by')
  if damaged or stored[1] or number(stored[2], 0) >= failures or stored[3] and number(stored[3], 0) <= ends_by then
    reply[#reply + 1] = grant_ids[i]
  end
end
return reply
