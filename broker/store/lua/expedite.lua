#!lua
-- expedite: make a grant due now, but only one that waits in due, is not backing off and was not just refreshed.
--
-- KEYS  1 grant  2 due  3 leased
-- ARGV  1 id  2 generation that must be current, or ""  3 least ms since the last answer
--       4 how often a window may see this, or "" (no budget)  5 the window in ms
-- Gives {status, number}: expedited; leased (a refresh is under way); changed (the current generation);
-- fresh (ms until it may be refreshed again); spent (ms until the budget's window ends); backing_off (ms until the next try); parked; gone.
local grant, due, leased = KEYS[1], KEYS[2], KEYS[3]
local id, generation, interval = ARGV[1], ARGV[2], tonumber(ARGV[3])
local budget, window = tonumber(ARGV[4]), tonumber(ARGV[5])

local held = redis.call('HMGET', grant, 'generation', 'answered_at', 'failures', 'reports', 'reports_since')
if not held[1] then
  return {'gone', 0}
end
if generation ~= '' and held[1] ~= generation then
  return {'changed', tonumber(held[1])}
end
if redis.call('ZSCORE', leased, id) then
  return {'leased', 0}
end
local score = redis.call('ZSCORE', due, id)
if not score then
  return {'parked', 0}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if tonumber(held[3] or 0) > 0 then
  return {'backing_off', math.max(0, score - now)}
end
if tonumber(score) <= now then
  return {'expedited', 0}
end
-- An answer "in the future" (the clock went back a little) is a fresh one too.
local since = now - tonumber(held[2] or 0)
if since > -interval and since < interval then
  return {'fresh', math.min(interval, interval - since)}
end
if budget then
  local reports, began = tonumber(held[4] or 0), math.min(now, tonumber(held[5] or now))
  if now - began >= window then
    reports, began = 0, now
  end
  local within = reports < budget
  redis.call('HSET', grant, 'reports', within and reports + 1 or reports, 'reports_since', began)
  if not within then
    return {'spent', began + window - now}
  end
end
redis.call('ZADD', due, 'XX', 'LT', now, id)
return {'expedited', 0}
