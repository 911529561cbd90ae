#!lua flags=allow-oom
-- reseal: put values that were sealed anew in place of the same values as they were; what changed meanwhile stays.
--
-- KEYS  1 a hash, or a text
-- ARGV  field ("" where the key is a text), value as it was, value now; and again
-- Gives how many were replaced.
local replaced = 0
for i = 1, #ARGV, 3 do
  local field, before, now = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if field == '' then
    if redis.call('GET', KEYS[1]) == before then
      redis.call('SET', KEYS[1], now, 'KEEPTTL')
      replaced = replaced + 1
    end
  elseif redis.call('HGET', KEYS[1], field) == before then
    redis.call('HSET', KEYS[1], field, now)
    replaced = replaced + 1
  end
end
return replaced
