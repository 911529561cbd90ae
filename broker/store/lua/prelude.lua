-- prelude: stands in every script, behind the first line.
--
-- Takes two items off: the last of KEYS (the hash `meta`) and the last of ARGV (the id of the store that this broker
-- knows). Another store is neither read nor written, whatever its grants are called.
do
  local store = redis.call('HGET', table.remove(KEYS), 'store')
  if store ~= table.remove(ARGV) then
    return redis.error_reply('FOREIGN ' .. (store or ''))
  end
end

-- The ids of forgotten grants are kept for so many ms (30 days): no journal brings such a grant back.
local FORGOTTEN_FOR_MS = 2592000000
-- Fraction of a ms in the score of a lease whose end was seen once. Such a lease is in its second term (see claim).
local SECOND_TERM_MARK = 0.5
-- Failures of a grant in a row after which subscribers hear of it (as in refresh/policy.py).
local FAILING_AFTER = 3

-- Return the server's time in epoch ms.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Append to the last ten attempts of a grant. Protected: an error here must not undo what was decided of the attempt.
local function record_attempt(attempts, decision, record)
  redis.pcall('RPUSH', attempts, decision .. '\t' .. record)
  redis.pcall('LTRIM', attempts, -10, -1)
end

-- Take a grant whose hash is gone out of its set, and note that it is lost, where it stood, and since when.
local function note_lost(lost, ids, grant_id, provider, state, score)
  redis.call('ZREM', ids, grant_id)
  redis.call('HSETNX', lost, grant_id, table.concat({state, score, now_ms(), provider}, ' '))
end

-- Return how often a grant was refused in a row without being parked, and when first and last; of its field `refused`.
local function refusals(refused, now)
  local count, first, last = string.match(refused or '', '^(%d+) (%d+) (%d+)$')
  if not count or tonumber(last) > now then -- after a clock was set back it counts no more
    return 0
  end
  return tonumber(count), tonumber(first), tonumber(last)
end

-- Return whether an access token came of the refresh token that a grant has now. An import leaves the token before it in
-- place, which says nothing of the imported one.
local function is_of_grant(issued_at, granted_at)
  return issued_at and tonumber(issued_at) >= tonumber(granted_at or 0)
end

-- Note that subscribers heard of a problem of the grant, before its traces are removed: the refresh that ends the problem
-- is its recovery. A refresh by a broker that does not know the note makes another generation, and the note void.
local function note_recovering(grant, generation)
  local stored = redis.call('HMGET', grant, 'reason', 'failures', 'recovering', 'generation')
  if stored[1] or tonumber(stored[2] or 0) >= FAILING_AFTER or stored[3] and stored[3] == stored[4] then
    redis.call('HSET', grant, 'recovering', generation or stored[4])
  end
end

-- Return why a grant that was named by its id cannot be moved: gone, moved (another provider has it: read again) or
-- leased; nil where it can.
local function why_immovable(grant, leased, grant_id, provider)
  local current = redis.call('HGET', grant, 'provider')
  if not current then
    return 'gone'
  end
  if current ~= provider then
    return 'moved'
  end
  return redis.call('ZSCORE', leased, grant_id) and 'leased' or nil
end
