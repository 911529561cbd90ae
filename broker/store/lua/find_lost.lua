#!lua flags=allow-oom
-- find_lost: take out of a sorted set of grants those whose hash is gone, and note each as lost.
--
-- KEYS: ids lost grant_prefix
-- ARGV: provider state offset page_size
--   provider, state: of the set
-- Returns: {count of grants that were examined, count of lost grants}
local ids, lost, grant_prefix = unpack(KEYS)
local provider, state, offset, page_size = unpack(ARGV)

local found = redis.call('ZRANGE', ids, offset, offset + page_size - 1, 'WITHSCORES')
for i = 1, #found, 2 do
  if not redis.call('HGET', grant_prefix .. found[i], 'provider') then
    note_lost(lost, ids, found[i], provider, state, found[i + 1])
  end
end
return {#found / 2, redis.call('HLEN', lost)}
