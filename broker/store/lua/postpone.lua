#!lua flags=allow-oom
-- postpone: a token request brought nothing; the grant is due again at another time.
--
-- KEYS  1 grant  2 due  3 leased  4 provider  5 attempts
-- ARGV  1 id  2 attempt  3 due at  4 "unknown" when the refresh token may have been redeemed
--       5 what it says of the lane: "", ailing or suspended  6 not_before (0: none)  7 code  8 detail
--       9 failures that half-close a lane  10 first pause in ms  11 longest pause in ms  12 jitter in [0, 1]
--       13 channel  14 message or ""  15 generation claimed  16 claimed at
--       17 what to remember of the attempt, or "" where nothing was tried  then fields and values
-- Gives postponed, superseded or gone.
local grant, due, leased, provider = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, attempt, due_at, unknown, lane = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local not_before, threshold = tonumber(ARGV[6]), tonumber(ARGV[9])
local first, longest, jitter = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])

local held = redis.call('HMGET', grant, 'generation', 'attempt', 'attempt_at', 'unknown_at')
if not held[1] then
  return 'gone'
end
local attempt_at = tonumber(held[3] or ARGV[16])
if held[2] ~= attempt then
  -- A store that went back behind the claim has no attempt at all. That its outcome is unknown must not be lost.
  local went_back = not held[2] and tonumber(held[1]) <= tonumber(ARGV[15])
  if not (went_back and unknown == 'unknown') then
    return 'superseded'
  end
  attempt_at = tonumber(ARGV[16])
end

if unknown == 'unknown' and not held[4] then
  redis.call('HSET', grant, 'unknown_at', attempt_at)
end
redis.call('HDEL', grant, 'attempt', 'attempt_at', 'attempt_by')
redis.call('HSET', grant, unpack(ARGV, 18))
redis.call('ZREM', leased, id)
redis.call('ZADD', due, due_at, id)

if lane ~= '' then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local counter = lane == 'ailing' and 'ailing' or 'probes'
  local counted = redis.call('HMGET', provider, counter, 'ailing_at')
  local count, since = tonumber(counted[1] or 0), tonumber(counted[2] or 0)
  -- Requests that were in flight together when the lane closed are one failure, not thirty-two.
  if count < threshold or attempt_at >= since then
    count = count + 1
    redis.call('HSET', provider, counter, count, 'ailing_at', now, 'detail', ARGV[8])
    if count >= threshold then
      local pause = math.min(longest, first * 2 ^ math.min(count - threshold, 16))
      not_before = math.max(not_before, now + math.floor(pause * (0.5 + jitter / 2)))
    end
  end
  if lane == 'suspended' then
    redis.call('HSET', provider, 'suspended', ARGV[7])
    redis.call('HSETNX', provider, 'suspended_at', now)
  end
end
if not_before > tonumber(redis.call('HGET', provider, 'not_before') or 0) then
  redis.call('HSET', provider, 'not_before', not_before)
end
if ARGV[17] ~= '' then
  record_attempt(KEYS[5], 'postponed', ARGV[17])
end
if ARGV[14] ~= '' then
  redis.pcall('PUBLISH', ARGV[13], ARGV[14])
end
return 'postponed'
