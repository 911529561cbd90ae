#!lua
-- count_outcomes: add what one replica counted to the providers' history, a field for each minute and kind.
--
-- KEYS: histories...
-- ARGV: counts...
--   counts: four items each: place of the history among the keys (from 1), minute since the epoch, refreshed, failed
-- Returns: nothing
local histories = KEYS
local counts = ARGV

for i = 1, #counts, 4 do
  local history, minute = histories[tonumber(counts[i])], counts[i + 1]
  for field, count in pairs({[minute .. 'r'] = counts[i + 2], [minute .. 'f'] = counts[i + 3]}) do
    if count ~= '0' then
      redis.call('HINCRBY', history, field, count)
    end
  end
end
-- Remove what is older than an hour, and what lies in the future because the clock was set back. Not at every call.
local this_minute = math.floor(now_ms() / 60000)
for i = 1, #histories do
  if redis.call('HLEN', histories[i]) > 128 then
    for _, field in ipairs(redis.call('HKEYS', histories[i])) do
      if math.abs(this_minute - tonumber(string.match(field, '^%d+'))) >= 60 then
        redis.call('HDEL', histories[i], field)
      end
    end
  end
end
