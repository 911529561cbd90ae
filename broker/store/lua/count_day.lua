#!lua
-- count_day: add what one replica counted to the providers' last day, a field for each quarter of an hour and kind.
--
-- KEYS: days...
-- ARGV: counts...
--   counts: four items each: place of the day among the keys (from 1), quarter since the epoch, kind ('r' refreshed,
--     'f' failed, 'u' unserved), and the count; of kind 'u' the minute of the quarter, from 0
-- Returns: nothing
local days = KEYS
local counts = ARGV

for i = 1, #counts, 4 do
  local day, quarter, kind, count = days[tonumber(counts[i])], counts[i + 1], counts[i + 2], counts[i + 3]
  if kind == 'u' then
    -- One bit a minute: that several replicas say the same, or one says it twice, changes nothing.
    local seen = tonumber(redis.call('HGET', day, quarter .. kind) or '0')
    redis.call('HSET', day, quarter .. kind, bit.bor(seen, bit.lshift(1, tonumber(count))))
  elseif count ~= '0' then
    redis.call('HINCRBY', day, quarter .. kind, count)
  end
end
-- Remove what is older than a day, and what lies in the future because the clock was set back. Not at every call.
local this_quarter = math.floor(now_ms() / 900000)
for i = 1, #days do
  if redis.call('HLEN', days[i]) > 384 then
    for _, field in ipairs(redis.call('HKEYS', days[i])) do
      if math.abs(this_quarter - tonumber(string.match(field, '^%d+'))) >= 96 then
        redis.call('HDEL', days[i], field)
      end
    end
  end
end
