#!lua flags=allow-oom
-- restore: bring back, from a journal, what an answer brought and the store may have lost. Writes only what is newer.
--
-- KEYS: grant due ends failing was_due was_leased was_parked was_ends was_failing forgotten attempts
-- ARGV: grant_id was_provider generation answered_at refresh_at attempt channel message followed granted_at record
-- ARGV: due_at reason fields...
--   was_due, was_leased, was_parked, was_ends, was_failing: the sets of the provider until now
--   was_provider: until now, or ""
--   followed: the generation that this one followed
--   record: the entry of the grant's attempts, without the decision
--   reason: why the grant is parked, or "" for one that is due at due_at
--   fields: fields of the grant, each with its value
-- Returns: restored, known, replaced (by a login or an import), forgotten or moved (read again)
local grant, due, ends, failing, was_due, was_leased, was_parked, was_ends, was_failing, forgotten,
  attempts = unpack(KEYS)
local grant_id, was_provider, generation, answered_at, refresh_at, attempt, channel, message, followed, granted_at,
  record, due_at, reason = unpack(ARGV)
local fields = {unpack(ARGV, 14)}
generation, answered_at, followed = tonumber(generation), tonumber(answered_at), tonumber(followed)
granted_at = tonumber(granted_at)

local stored, damaged = read_fields(grant, 'provider', 'generation', 'answered_at', 'granted_at')
if damaged or stored[1] and not is_grant_id(stored[1]) then -- as good as lost
  redis.call('DEL', grant)
  stored = {}
end
if (stored[1] or '') ~= was_provider then
  return 'moved'
end
if stored[1] then
  local known, last_answered_at, last_granted_at = tonumber(stored[2]), tonumber(stored[3] or 0), tonumber(stored[4] or 0)
  -- An answer without an access token leaves the generation that it followed.
  local has_token = generation > followed
  if last_granted_at == granted_at then
    -- Of the answers to one grant the newest counts. Two may have followed one generation: the store went back behind
    -- a claim, and a provider accepts a spent refresh token for a while.
    local newer = (generation == known or not has_token) and answered_at > last_answered_at
    if generation <= known and not newer then
      return 'known'
    end
  elseif known > followed and last_granted_at > granted_at then
    -- What a login or an import brought since is not undone, but refreshes of what was before a login are.
    return 'replaced'
  else
    -- Another login's access token may be another account's.
    redis.call('HDEL', grant, 'access_token', 'token_type', 'scope', 'issued_at', 'expires_at', 'extra', 'reauthorize_by',
      'clock_offset')
  end
  if not has_token then
    -- The store's access token stays. Where the store has lost the one of the generation that the answer followed, this
    -- one gets a generation that never meant another.
    generation = known < generation and generation + 1 or known
  else
    generation = math.max(generation, known + 1)
  end
else
  -- The ids of forgotten grants are kept for a limited time, so no older answer comes back. A forgotten grant takes
  -- with it every answer that followed from it, however late that came; a login follows from nothing.
  local came_of = attempt == 'login' and generation or followed
  local forgotten_at = tonumber(redis.call('ZSCORE', forgotten, grant_id) or 0)
  if answered_at < now_ms() - FORGOTTEN_FOR_MS or forgotten_at >= came_of then
    return 'forgotten'
  end
end

redis.call('HDEL', grant, 'attempt', 'attempt_at', 'attempt_by', 'unknown_at', 'reason', 'failures', 'reauthorize_by',
  'reauthorize_limit', 'refused', 'recovering')
redis.call('HSET', grant, 'committed', attempt, 'refresh_at', refresh_at, 'granted_at', granted_at, unpack(fields))
redis.call('HSET', grant, 'generation', generation)
redis.call('ZREM', was_due, grant_id)
redis.call('ZREM', was_leased, grant_id)
redis.call('ZREM', was_parked, grant_id)
redis.call('ZREM', was_ends, grant_id)
redis.call('ZREM', was_failing, grant_id)
if reason ~= '' then
  redis.call('HSET', grant, 'reason', reason)
  redis.pcall('ZADD', was_parked, due_at, grant_id) -- protected, as in commit
else
  redis.pcall('ZADD', due, due_at, grant_id)
end
index_grant(grant, ends, failing, grant_id)
record_attempt(attempts, 'restored', record)
message = string.gsub(message, '("generation": ?)%d+', '%1' .. string.format('%.0f', generation))
redis.pcall('PUBLISH', channel, message)
return 'restored'
