#!lua flags=allow-oom
-- restore: tell a store that may have lost it what an answer brought. Writes only what is newer.
--
-- KEYS  1 grant  2 due  3 its provider's due until now  4 leased likewise  5 parked likewise  6 forgotten
--       7 attempts
-- ARGV  1 id  2 provider until now, or ""  3 generation  4 answered at  5 refresh at  6 attempt  7 channel  8 message
--       9 the generation it followed  10 granted at  11 what to remember of the attempt  then fields and values
-- Gives restored, known, replaced (by a login or an import), forgotten or moved (read again).
local grant, due, was_due, was_leased, was_parked, forgotten = unpack(KEYS)
local id, provider, generation, answered_at = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local held = redis.call('HMGET', grant, 'provider', 'generation', 'answered_at', 'committed', 'granted_at')
if (held[1] or '') ~= provider then
  return 'moved'
end
if held[1] then
  -- What the store has since the generation this one followed (a login, an import) is not for an older refresh to undo.
  local known = tonumber(held[2])
  if held[4] == ARGV[6] and known == generation then
    return 'known'
  end
  if known ~= generation and known > tonumber(ARGV[9]) then
    return held[5] == ARGV[10] and 'known' or 'replaced'
  end
  if known == generation and tonumber(held[3] or 0) >= answered_at then
    return 'known'
  end
else
  -- Nothing is remembered as forgotten for longer than a month, so nothing older comes back. What was forgotten takes
  -- with it what came of it, however late that came; a login comes of nothing.
  local time = redis.call('TIME')
  local oldest = time[1] * 1000 - 2592000000
  local came_of = ARGV[6] == 'login' and generation or tonumber(ARGV[9])
  if answered_at < oldest or tonumber(redis.call('ZSCORE', forgotten, id) or 0) >= came_of then
    return 'forgotten'
  end
end

redis.call('HDEL', grant, 'attempt', 'attempt_at', 'attempt_by', 'unknown_at', 'reason', 'failures')
redis.call('HSET', grant, 'committed', ARGV[6], 'refresh_at', ARGV[5], 'granted_at', ARGV[10], unpack(ARGV, 12))
redis.call('ZREM', was_due, id)
redis.call('ZREM', was_leased, id)
redis.call('ZREM', was_parked, id)
redis.call('ZADD', due, ARGV[5], id)
record_attempt(KEYS[7], 'restored', ARGV[11])
redis.pcall('PUBLISH', ARGV[7], ARGV[8])
return 'restored'
