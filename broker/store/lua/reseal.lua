#!lua flags=allow-oom
-- reseal: replace sealed values by the same values sealed anew; a value that changed meanwhile stays.
--
-- KEYS: sealed
-- ARGV: changes...
--   sealed: a hash, or a string
--   changes: three items each: field ("" where the key is a string), value before, value after
-- Returns: the count of values that were replaced
local sealed = unpack(KEYS)
local changes = ARGV

local replaced = 0
for i = 1, #changes, 3 do
  local field, before, after = changes[i], changes[i + 1], changes[i + 2]
  if field == '' then
    if redis.call('GET', sealed) == before then
      redis.call('SET', sealed, after, 'KEEPTTL')
      replaced = replaced + 1
    end
  elseif redis.call('HGET', sealed, field) == before then
    redis.call('HSET', sealed, field, after)
    replaced = replaced + 1
  end
end
return replaced
