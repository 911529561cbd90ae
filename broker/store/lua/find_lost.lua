#!lua flags=allow-oom
-- find_lost: take out of a sorted set of grants those whose hash is gone, and note each as lost.
--
-- KEYS: ids lost grant_prefix noted
-- ARGV: provider state offset page_size
--   noted: of keys that were of another type, and when that was seen last (see prelude)
--   provider, state: of the set
-- Returns: {count of grants that were examined, count of lost grants, what noted holds}
local ids, lost, grant_prefix, noted = unpack(KEYS)
local provider, state, offset, page_size = unpack(ARGV)

local found = redis.call('ZRANGE', ids, offset, offset + page_size - 1, 'WITHSCORES')
for i = 1, #found, 2 do
  local stored, damaged = read_fields(grant_prefix .. found[i], 'provider')
  if not stored[1] and not damaged then
    note_lost(lost, ids, found[i], provider, state, found[i + 1])
  end
end
local named = redis.call('HGETALL', noted)
for i = 1, #named, 2 do
  if math.abs(now_ms() - number(named[i + 1], 0)) > NOTED_FOR_MS then
    redis.call('HDEL', noted, named[i])
  end
end
return {#found / 2, redis.call('HLEN', lost), named}
