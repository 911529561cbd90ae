#!lua flags=allow-oom
-- postpone: a token request brought nothing; the grant is due again at another time.
--
-- KEYS: grant due leased parked ends failing provider attempts
-- ARGV: grant_id attempt due_at unknown lane not_before detail half_close_after first_pause_ms longest_pause_ms
-- ARGV: jitter channel message generation claimed_at provider_name record fields...
--   unknown: "unknown" when the refresh token may have been redeemed
--   lane: what the outcome says of the lane: "" or ailing
--   not_before: when the provider takes requests again, epoch ms (0: it did not say)
--   half_close_after: failures in a row that half-close a lane
--   jitter: in [0, 1]
--   message: to publish, or ""
--   generation, claimed_at, provider_name: as claimed
--   record: the entry of the grant's attempts without the decision, or "" where nothing was sent
--   fields: fields of the grant, each with its value
-- Returns: postponed, superseded or gone
local grant, due, leased, parked, ends, failing, provider, attempts = unpack(KEYS)
local grant_id, attempt, due_at, unknown, lane, not_before, detail, half_close_after, first_pause_ms,
  longest_pause_ms, jitter, channel, message, generation, claimed_at, provider_name, record = unpack(ARGV)
local fields = {unpack(ARGV, 18)}
not_before, half_close_after, jitter = tonumber(not_before), tonumber(half_close_after), tonumber(jitter)
first_pause_ms, longest_pause_ms = tonumber(first_pause_ms), tonumber(longest_pause_ms)

require_sets(due)
local stored = redis.call('HMGET', grant, 'generation', 'attempt', 'attempt_at', 'unknown_at', 'provider')
if not stored[1] then
  return 'gone'
end
local attempt_at = tonumber(stored[3] or claimed_at)
if stored[2] ~= attempt then
  -- A store that went back behind the claim has no attempt at all. That its outcome is unknown must not be lost. Under
  -- another provider the grant has another refresh token, of which this outcome says nothing.
  local went_back = not stored[2] and tonumber(stored[1]) <= tonumber(generation) and stored[5] == provider_name
  if not (went_back and unknown == 'unknown') then
    return 'superseded'
  end
  attempt_at = tonumber(claimed_at)
end

if unknown == 'unknown' and not stored[4] then
  redis.call('HSET', grant, 'unknown_at', attempt_at)
end
if redis.call('ZSCORE', parked, grant_id) then
  return 'superseded' -- a store that went back to when it was parked: it stays so
end
redis.call('HDEL', grant, 'attempt', 'attempt_at', 'attempt_by')
redis.call('HSET', grant, unpack(fields))
redis.call('ZREM', leased, grant_id)
redis.call('ZADD', due, due_at, grant_id)
index_grant(grant, ends, failing, grant_id)

if lane ~= '' then
  local now = now_ms()
  local counted = redis.call('HMGET', provider, 'ailing', 'ailing_at')
  local count, since = tonumber(counted[1] or 0), tonumber(counted[2] or 0)
  -- Requests that were in flight together when the lane closed are one failure, not thirty-two.
  if count < half_close_after or attempt_at >= since then
    count = count + 1
    redis.call('HSET', provider, 'ailing', count, 'ailing_at', now, 'detail', detail)
    if count == 1 then
      redis.call('HSET', provider, 'failing_since', now)
    end
    if count >= half_close_after then
      local pause = math.min(longest_pause_ms, first_pause_ms * 2 ^ math.min(count - half_close_after, 16))
      not_before = math.max(not_before, now + math.floor(pause * (0.5 + jitter / 2)))
    end
  end
end
if not_before > tonumber(redis.call('HGET', provider, 'not_before') or 0) then
  redis.call('HSET', provider, 'not_before', not_before)
  redis.call('HDEL', provider, 'witness_at') -- what the server asks for holds for every grant
end
if record ~= '' then
  record_attempt(attempts, 'postponed', record)
end
if message ~= '' then
  redis.pcall('PUBLISH', channel, message)
end
return 'postponed'
