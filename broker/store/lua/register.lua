#!lua
-- register: take in a grant, new or over another of its id, by login or import.
--
-- KEYS  1 grant  2 due  3 its provider's due until now  4 leased likewise  5 parked likewise  6 held  7 meta (for the provider's name)
-- ARGV  1 id  2 login or import  3 provider until now, or ""  4 generation until now, or ""  5 due at
--       6 fingerprint of an imported refresh token  7 channel  8 message or ""  9 token fields to drop, blank-separated
--       10 provider from now on  then fields and values
-- Gives {status, detail}: created, replaced, unchanged, outdated (this token was imported before, and replaced since),
-- leased, held (by whom), moved (read again).
local grant, due, was_due, was_leased, was_parked, held_by, meta = unpack(KEYS)
local id, mode, provider, generation, due_at, fingerprint = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local held = redis.call('HMGET', grant, 'provider', 'generation', 'imported')
if (held[1] or '') ~= provider or (held[2] or '') ~= generation then
  return {'moved', ''}
end
if mode == 'import' then
  -- Newest first. What was replaced since is likely to be spent: a file that is sent again must not bring it back.
  local known = held[3] or ''
  if held[1] == ARGV[10] and string.find(' ' .. known .. ' ', ' ' .. fingerprint .. ' ', 1, true) then
    return {string.find(known, fingerprint, 1, true) == 1 and 'unchanged' or 'outdated', ''}
  end
  if redis.call('ZSCORE', was_leased, id) then
    return {'leased', ''}
  end
  local holder = redis.call('HGET', held_by, fingerprint)
  if holder and holder ~= id then
    return {'held', holder}
  end
  if held[3] then
    redis.call('HDEL', held_by, string.sub(known, 1, #fingerprint))
  end
  redis.call('HSET', held_by, fingerprint, id)
  redis.call('HSET', grant, 'imported', string.sub(fingerprint .. ' ' .. known, 1, 8 * (#fingerprint + 1) - 1))
end

redis.call('HDEL', grant, 'attempt', 'attempt_at', 'attempt_by', 'unknown_at', 'reason', 'failures', 'committed',
  'answered_at', 'last_outcome', 'last_detail', 'last_at', 'reports', 'reports_since')
for field in string.gmatch(ARGV[9], '%S+') do
  redis.call('HDEL', grant, field)
end
redis.call('HSET', grant, 'provider', ARGV[10], unpack(ARGV, 11))
redis.call('HSETNX', meta, 'provider:' .. ARGV[10], 1)
redis.call('ZREM', was_due, id)
redis.call('ZREM', was_leased, id)
redis.call('ZREM', was_parked, id)
redis.call('ZADD', due, due_at, id)
if ARGV[8] ~= '' then
  redis.pcall('PUBLISH', ARGV[7], ARGV[8])
end
return {held[1] and 'replaced' or 'created', ''}
