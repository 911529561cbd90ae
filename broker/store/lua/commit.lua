#!lua flags=allow-oom
-- commit: store what a token request brought; the same attempt may commit again and again.
--
-- KEYS: grant due leased parked ends failing provider forgotten attempts
-- ARGV: grant_id attempt generation granted_at claimed_at answered_at refresh_at ends_at channel record message_count
-- ARGV: messages_then_fields...
--   generation, granted_at, claimed_at: as claimed
--   ends_at: when the token ends that came without a problem, or ""
--   record: the entry of the grant's attempts, without the decision
--   messages_then_fields: message_count messages, then fields of the grant, each with its value
-- Returns: committed, already, superseded, gone, or lost (the store went back behind the claim, or the grant's key is no
--   hash: restore decides). After superseded or gone the caller revokes what it received.
local grant, due, leased, parked, ends, failing, provider, forgotten, attempts = unpack(KEYS)
local grant_id, attempt, generation, granted_at, claimed_at, answered_at, refresh_at, ends_at, channel, record,
  message_count = unpack(ARGV)
local messages_then_fields = {unpack(ARGV, 12)}
message_count = tonumber(message_count)

local stored = read_fields(grant, 'generation', 'committed', 'granted_at', 'failures', 'reason')
if stored[2] == attempt then
  return 'already'
end
if not stored[1] then
  local forgotten_at = redis.call('ZSCORE', forgotten, grant_id)
  return forgotten_at and tonumber(forgotten_at) >= tonumber(generation) and 'gone' or 'lost'
end
if stored[1] ~= generation then
  -- granted_at survives rotation and changes at a login or import. With the same one, the stored token came of this
  -- answer, or of another to the same refresh token: restore compares them.
  local newer = tonumber(stored[1]) > tonumber(generation)
  return newer and stored[3] ~= granted_at and 'superseded' or 'lost'
end

redis.call('HDEL', grant, 'attempt', 'attempt_at', 'attempt_by', 'unknown_at', 'reason', 'failures', 'reauthorize_by',
  'reauthorize_limit', 'refused', 'recovering')
redis.call('HSET', grant, 'committed', attempt, 'refresh_at', refresh_at,
  unpack(messages_then_fields, message_count + 1))
redis.call('ZREM', leased, grant_id)
redis.call('ZREM', parked, grant_id)
redis.pcall('ZADD', due, refresh_at, grant_id) -- protected: what was received is kept, also where that set is damaged
if ends_at ~= '' and not stored[4] and not stored[5] then
  redis.call('ZADD', ends, ends_at, grant_id) -- the usual case: the grant was not failing, and is not
else
  index_grant(grant, ends, failing, grant_id)
end
redis.call('HDEL', provider, 'not_before', 'suspended', 'suspended_at', 'ailing', 'ailing_at', 'probes', 'refused',
  'detail', 'witness_at', 'witnesses')
-- A success is evidence about refusals of other grants (see park) if it was asked for after them: written only where
-- there are any, so that a commit of a sound provider writes nothing here.
local seen = redis.call('HMGET', provider, 'doubted_at', 'succeeded_at')
if seen[1] and tonumber(claimed_at) > tonumber(seen[1]) then
  redis.call('HDEL', provider, 'doubted', 'doubted_at')
  redis.call('HSET', provider, 'succeeded_from', claimed_at, 'succeeded_at', answered_at)
elseif not seen[2] then
  redis.call('HSET', provider, 'succeeded_at', answered_at)
end

record_attempt(attempts, 'kept', record)
-- Last and protected: a publish that fails must not make a stored token look lost.
for i = 1, message_count do
  redis.pcall('PUBLISH', channel, messages_then_fields[i])
end
return 'committed'
