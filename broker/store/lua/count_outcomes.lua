#!lua
-- count_outcomes: add what one replica counted to the providers' history, a field for each minute and kind.
--
-- KEYS  a provider's history each
-- ARGV  four for each count: number of its history among the keys, minute since the epoch, refreshed, failed
for i = 1, #ARGV, 4 do
  local history, minute = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  for field, count in pairs({[minute .. 'r'] = ARGV[i + 2], [minute .. 'f'] = ARGV[i + 3]}) do
    if count ~= '0' then
      redis.call('HINCRBY', history, field, count)
    end
  end
end
-- What is older than an hour goes, and what a clock that was set back since left in the future. Not at every call.
local now = math.floor(redis.call('TIME')[1] / 60)
for i = 1, #KEYS do
  if redis.call('HLEN', KEYS[i]) > 128 then
    for _, field in ipairs(redis.call('HKEYS', KEYS[i])) do
      if math.abs(now - tonumber(string.match(field, '^%d+'))) >= 60 then
        redis.call('HDEL', KEYS[i], field)
      end
    end
  end
end
