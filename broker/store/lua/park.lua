#!lua flags=allow-oom
-- park: a refusal. Decide by what other grants of the provider met whether it parks the grant (no more requests until a
-- person or a retry), is tried again, or suspends the provider.
--
-- KEYS: grant due leased parked ends failing provider attempts
-- ARGV: grant_id attempt reason code detail verdict exhausted due_at failures breaker first_pause_ms longest_pause_ms
-- ARGV: channel message record fields...
--   code: the server's error code
--   verdict: whom the refusal means: grant, doubtful (the grant or the client registration) or registration
--   exhausted: "exhausted" where the grant was refused often enough to be parked although the refusal is not clear
--   due_at: when the grant is tried again
--   breaker: grants refused in a row after which the next one suspends the provider; 0: it says nothing of the provider
--   record: the entry of the grant's attempts, without the decision
--   fields: fields of the grant, each with its value
-- Returns: parked, postponed, suspended, superseded or gone
local grant, due, leased, parked, ends, failing, provider, attempts = unpack(KEYS)
local grant_id, attempt, reason, code, detail, verdict, exhausted, due_at, failures, breaker, first_pause_ms,
  longest_pause_ms, channel, message, record = unpack(ARGV)
local fields = {unpack(ARGV, 16)}
breaker, first_pause_ms, longest_pause_ms = tonumber(breaker), tonumber(first_pause_ms), tonumber(longest_pause_ms)

require_sets(due, parked)
local stored = redis.call('HMGET', grant, 'generation', 'attempt', 'attempt_at', 'refused', 'issued_at', 'granted_at')
if not stored[1] then
  return 'gone'
end
if stored[2] ~= attempt then
  return 'superseded'
end
local now, attempt_at, had_token = now_ms(), tonumber(stored[3]), is_of_grant(stored[5], stored[6])
local count, first, last = refusals(stored[4], now)

redis.call('HDEL', grant, 'attempt', 'attempt_at', 'attempt_by')
redis.call('HSET', grant, unpack(fields))
redis.call('ZREM', leased, grant_id)

-- Add this grant to a list of grants in the provider's hash. Return how many were there, and whether it was.
local function add_to(list)
  local others, known = 0, false
  local listed = redis.call('HGET', provider, list) or ''
  for other in string.gmatch(listed, '%S+') do
    others = others + 1
    known = known or other == grant_id
  end
  if not known and others < breaker then
    redis.call('HSET', provider, list, others == 0 and grant_id or listed .. ' ' .. grant_id)
  end
  return others, known
end

-- Leave the grant in due. What an earlier attempt came to stays unknown.
local function again(at, outcome, decision)
  if outcome then
    record = outcome .. string.match(record, '\t.*')
    redis.call('HSET', grant, 'last_outcome', outcome)
  end
  redis.call('HSET', grant, 'refused', count + 1 .. ' ' .. (first or now) .. ' ' .. now)
  redis.call('ZADD', due, at, grant_id)
  index_grant(grant, ends, failing, grant_id)
  record_attempt(attempts, decision, record)
end

-- Suspend the provider, and probe it at growing intervals.
local function suspend(outcome)
  local lane = redis.call('HMGET', provider, 'probes', 'ailing_at', 'witnesses')
  local probes = tonumber(lane[1] or 0)
  -- Requests that were in flight together when the lane closed are one refusal.
  if probes == 0 or attempt_at >= tonumber(lane[2] or 0) then
    local function until_next(times)
      return now + math.min(longest_pause_ms, first_pause_ms * 2 ^ math.min(times, 16))
    end
    redis.call('HSET', provider, 'probes', probes + 1, 'ailing_at', now, 'not_before', until_next(probes))
    if count == 0 then
      -- Not refused before: a witness. The next one need not wait for pauses that only the same few grants prolonged.
      local witnesses = tonumber(lane[3] or 0)
      redis.call('HSET', provider, 'witnesses', witnesses + 1, 'witness_at', until_next(witnesses))
    end
  end
  redis.call('HSET', provider, 'suspended', code, 'detail', detail)
  redis.call('HSETNX', provider, 'suspended_at', now)
  -- Due, so that it is tried as soon as another succeeds; claim probes with all others before it.
  again(now, outcome, 'suspended')
  return 'suspended'
end

local decision = 'parked'
if verdict ~= 'grant' then
  local seen = redis.call('HMGET', provider, 'succeeded_from', 'succeeded_at', 'suspended')
  -- Another grant was asked after this one was last refused, and was answered before this one was asked again.
  local others_succeed = count > 0 and tonumber(seen[1] or 0) > last and tonumber(seen[2] or 0) <= attempt_at
  local own = others_succeed or (not had_token and seen[2])
  redis.call('HSET', provider, 'doubted_at', now)
  if own and not (exhausted == 'exhausted' or others_succeed and verdict == 'doubtful') then
    redis.call('HSET', grant, 'failures', failures)
    again(due_at, 'rejected', 'postponed_alone')
    return 'postponed'
  end
  if not own then
    local others, known = add_to('doubted')
    if verdict == 'registration' or count > 0 or seen[3] or (others >= breaker - 1 and not known) then
      return suspend('registration')
    end
    redis.call('HSET', grant, 'failures', failures)
    again(due_at, 'rejected', 'undecided')
    return 'postponed'
  end
  decision = 'parked_alone'
elseif breaker > 0 and had_token then
  local others, known = add_to('refused')
  if not known and others >= breaker then
    return suspend()
  end
  -- The provider answered, so it is not ailing; it accepts this client, so a suspension of the registration is over.
  redis.call('HDEL', provider, 'not_before', 'ailing', 'ailing_at', 'probes', 'suspended', 'suspended_at', 'detail',
    'witness_at', 'witnesses')
end
redis.call('HDEL', grant, 'refused', 'unknown_at')
redis.call('HSET', grant, 'reason', reason)
redis.call('ZADD', parked, now, grant_id)
index_grant(grant, ends, failing, grant_id)
record_attempt(attempts, decision, record)
redis.pcall('PUBLISH', channel, message)
return 'parked'
