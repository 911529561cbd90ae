#!lua
-- register: store a grant, new or in place of another of its id, by login or import.
--
-- KEYS: grant due ends failing was_due was_leased was_parked was_ends was_failing held_by meta attempts
-- ARGV: grant_id mode was_provider was_generation generation due_at fingerprint channel message dropped_fields provider
-- ARGV: fields...
--   was_due, was_leased, was_parked, was_ends, was_failing: the sets of the provider until now
--   meta: for the provider's name
--   mode: login or import
--   was_provider, was_generation: until now, or ""
--   generation: from now on
--   fingerprint: of an imported refresh token
--   message: to publish, or ""
--   dropped_fields: fields to remove from the grant, separated by blanks
--   provider: from now on
--   fields: fields of the grant, each with its value
-- Returns: {status, detail}
--   created, replaced, unchanged, outdated (this token was imported before, and replaced since), leased, held (by which
--   grant), moved (read again)
local grant, due, ends, failing, was_due, was_leased, was_parked, was_ends, was_failing, held_by, meta,
  attempts = unpack(KEYS)
local grant_id, mode, was_provider, was_generation, generation, due_at, fingerprint, channel, message, dropped_fields,
  provider = unpack(ARGV)
local fields = {unpack(ARGV, 12)}

require_sets(due)
local stored, damaged = read_fields(grant, 'provider', 'generation', 'imported')
if damaged or stored[1] and not is_grant_id(stored[1]) then -- nothing of it can be kept, and nobody can have seen it
  redis.call('DEL', grant)
  stored = {}
end
stored[2] = stored[2] and (number(stored[2]) and stored[2] or '0')
if (stored[1] or '') ~= was_provider or (stored[2] or '') ~= was_generation then
  return {'moved', ''}
end
if mode == 'import' then
  -- Newest first. A token that was replaced is likely to be redeemed: a file that is sent again must not bring it back.
  local known = stored[3] or ''
  if stored[1] == provider and string.find(' ' .. known .. ' ', ' ' .. fingerprint .. ' ', 1, true) then
    return {string.find(known, fingerprint, 1, true) == 1 and 'unchanged' or 'outdated', ''}
  end
  if redis.call('ZSCORE', was_leased, grant_id) then
    return {'leased', ''}
  end
  local holder = redis.call('HGET', held_by, fingerprint)
  if holder and holder ~= grant_id then
    return {'held', holder}
  end
  if stored[3] then
    redis.call('HDEL', held_by, string.sub(known, 1, #fingerprint))
  end
  redis.call('HSET', held_by, fingerprint, grant_id)
  redis.call('HSET', grant, 'imported', string.sub(fingerprint .. ' ' .. known, 1, 8 * (#fingerprint + 1) - 1))
end

if mode == 'import' then
  note_recovering(grant, generation)
else
  redis.call('HDEL', grant, 'recovering')
end
redis.call('HDEL', grant, 'attempt', 'attempt_at', 'attempt_by', 'unknown_at', 'reason', 'failures', 'committed',
  'answered_at', 'last_outcome', 'last_detail', 'last_at', 'reports', 'reports_since', 'refused')
for field in string.gmatch(dropped_fields, '%S+') do
  redis.call('HDEL', grant, field)
end
redis.call('HSET', grant, 'provider', provider, unpack(fields))
redis.call('HSETNX', meta, 'provider:' .. provider, 1)
redis.call('ZREM', was_due, grant_id)
redis.call('ZREM', was_leased, grant_id)
redis.call('ZREM', was_parked, grant_id)
redis.call('ZREM', was_ends, grant_id)
redis.call('ZREM', was_failing, grant_id)
redis.call('ZADD', due, due_at, grant_id)
index_grant(grant, ends, failing, grant_id)
if redis.call('EXISTS', attempts) == 1 then
  -- What was answered before is not the last that is known of this grant any more (see store/lost.py).
  record_attempt(attempts, 'registered', table.concat({mode, math.floor(due_at / 1000), 0, '', '', ''}, '\t'))
end
if message ~= '' then
  redis.pcall('PUBLISH', channel, message)
end
return {stored[1] and 'replaced' or 'created', ''}
