#!lua flags=allow-oom
-- rewind: the server's clock was set back. The times of a token that were set before move back by as much, and a lease
-- ends as if it began now, so that no token outlives its end and no grant waits for a clock to catch up.
--
-- KEYS: ids leased ends failing provider epoch grant_prefix
-- ARGV: state skip page_size lease_ms
--   ids: the grants of the provider in this state
--   skip: how many of them were examined before
-- Returns: the count of grants that were examined; the last call for those that are due (fewer than page_size) marks
--   the clock as seen
local ids, leased, ends, failing, provider, epoch, grant_prefix = unpack(KEYS)
local state, skip, page_size, lease_ms = unpack(ARGV)
skip, page_size = tonumber(skip), tonumber(page_size)

local STEP_MS = 5000
local now = now_ms()
local steps = redis.call('HMGET', epoch, 'offset', 'offset_was', 'offset_at')
local offset, offset_was, moved_at = tonumber(steps[1] or 0), tonumber(steps[2] or 0), tonumber(steps[3] or 0)

-- Return by how much the times of a token are too late, and the offset by which they count once that is taken off, as in
-- store/clock.py. A step that no broker has recorded yet is taken off, too, and must not be taken off again.
local function ms_ahead(issued_at, stamp)
  local set_at, stamped = string.match(stamp or '', '^(%-?%d+) (%d+)$')
  if not stamped or tonumber(stamped) ~= issued_at then -- a broker that kept no offsets set them
    set_at = issued_at < moved_at and 0 or issued_at > now + STEP_MS and offset_was or offset
  end
  local back = math.max(0, tonumber(set_at) - offset)
  if issued_at - back > now + STEP_MS then
    back = issued_at - now
  end
  return back, tonumber(set_at) - back
end

local seen_at = tonumber(redis.call('HGET', provider, 'seen_at') or now)
local found = redis.call('ZRANGE', ids, skip, skip + page_size - 1, 'WITHSCORES')
for i = 1, #found, 2 do
  local id, grant, score = found[i], grant_prefix .. found[i], tonumber(found[i + 1])
  local stored = read_fields(grant, 'issued_at', 'refresh_at', 'expires_at', 'failures', 'clock_offset',
    'granted_at', 'unknown_at', 'last_at')
  local issued_at, refresh_at, back, stamp = number(stored[1]), number(stored[2], 0), 0, offset
  if issued_at and number(stored[3]) then
    back, stamp = ms_ahead(issued_at, stored[5])
  end
  if back > 0 then
    refresh_at = refresh_at - back
    local at = issued_at - back
    if is_of_grant(issued_at, stored[6]) then -- it still is
      at = math.max(at, math.min(number(stored[6], 0), now))
    end
    redis.call('HSET', grant, 'issued_at', at, 'refresh_at', refresh_at, 'expires_at', stored[3] - back,
      'clock_offset', string.format('%.0f %.0f', stamp, at))
    if number(stored[7]) then
      redis.call('HSET', grant, 'unknown_at', stored[7] - back)
    end
    index_grant(grant, ends, failing, id)
  end
  local moved = score
  if state == 'parked' then
    moved = score - back
  elseif state == 'due' and (not issued_at or number(stored[4], 0) > 0) then
    -- It waits for its first token, or backs off: for as long as was left when the clock was last seen.
    moved = math.min(score, now + math.max(0, score - seen_at))
    local written_at = math.max(number(stored[6], 0), number(stored[8], 0))
    if written_at > now + STEP_MS and score > written_at - 1000 then -- by a broker that had not seen the step
      moved = math.min(moved, now + math.max(0, score - written_at))
    end
  elseif state == 'due' then
    moved = math.min(score - back, math.max(now, refresh_at))
  end
  if moved < score then
    redis.call('ZADD', ids, moved, id)
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', leased, '(' .. now + lease_ms, '+inf')) do
  redis.call('ZADD', leased, now + lease_ms, id)
end
if state == 'due' and #found / 2 < page_size then
  redis.call('HSET', provider, 'seen_at', now)
  if seen_at > now + STEP_MS then
    redis.call('HDEL', provider, 'not_before', 'ailing_at', 'witness_at', 'doubted_at')
  end
end
return #found / 2
