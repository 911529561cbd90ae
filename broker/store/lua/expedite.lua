#!lua
-- expedite: make a grant due now, but only one that waits in due, is not backing off and was not just refreshed.
--
-- KEYS: grant due leased
-- ARGV: grant_id generation interval_ms budget window_ms
--   generation: the one that must be current, or ""
--   interval_ms: least time since the last answer
--   budget: how often this may be done within the window, or "" (without limit)
-- Returns: {status, number}
--   expedited; leased (a refresh is under way); changed (the current generation); fresh (ms until it may be refreshed
--   again); spent (ms until the budget's window ends); backing_off (ms until the next try); parked; gone
local grant, due, leased = unpack(KEYS)
local grant_id, generation, interval_ms, budget, window_ms = unpack(ARGV)
interval_ms, budget, window_ms = tonumber(interval_ms), maybe_number(budget), tonumber(window_ms)

require_sets(due)
local stored = redis.call('HMGET', grant, 'generation', 'answered_at', 'failures', 'reports', 'reports_since')
if not stored[1] then
  return {'gone', 0}
end
if generation ~= '' and stored[1] ~= generation then
  return {'changed', tonumber(stored[1])}
end
if redis.call('ZSCORE', leased, grant_id) then
  return {'leased', 0}
end
local score = redis.call('ZSCORE', due, grant_id)
if not score then
  return {'parked', 0}
end
local now = now_ms()
if tonumber(stored[3] or 0) > 0 then
  return {'backing_off', math.max(0, score - now)}
end
if tonumber(score) <= now then
  return {'expedited', 0}
end
-- An answer "in the future" (the clock went back a little) is a fresh one too.
local since = now - tonumber(stored[2] or 0)
if since > -interval_ms and since < interval_ms then
  return {'fresh', math.min(interval_ms, interval_ms - since)}
end
if budget then
  local reports, began = tonumber(stored[4] or 0), math.min(now, tonumber(stored[5] or now))
  if now - began >= window_ms then
    reports, began = 0, now
  end
  local within = reports < budget
  redis.call('HSET', grant, 'reports', within and reports + 1 or reports, 'reports_since', began)
  if not within then
    return {'spent', began + window_ms - now}
  end
end
redis.call('ZADD', due, 'XX', 'LT', now, grant_id)
return {'expedited', 0}
