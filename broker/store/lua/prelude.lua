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

-- For how many ms a damaged key stays noted after it was met last.
local NOTED_FOR_MS = 600000

-- Return the reply to a command that met a key of another type than brokers write; note that key, so that brokers name
-- it. What brokers can do without is removed, and the command writes it anew. The schedule, of which nothing else has a
-- copy, stays: what reads it gets the reply of an empty set, as it reads other sets too, and what writes it an error.
local function reply_to_damage(server, reply, command, key, ...)
  local all, kind = string.match(key, '^(.-{0}:)(%l+)')
  local replaceable = ' provider history day ends failing attempts lost damaged '
  local replaced = kind and string.find(replaceable, ' ' .. kind .. ' ', 1, true)
  if not replaced and kind ~= 'due' and kind ~= 'leased' and kind ~= 'parked' then
    return reply
  end
  local noted, time = server.pcall('HLEN', all .. 'damaged'), server.call('TIME')
  if type(noted) == 'number' and noted < 100 then
    server.call('HSET', all .. 'damaged', string.sub(key, #all + 1), time[1] * 1000 + math.floor(time[2] / 1000))
  end
  if replaced then
    server.call('DEL', key)
    return server.pcall(command, key, ...)
  end
  local empty = {ZRANGE = {}, ZRANGEBYSCORE = {}, ZCARD = 0, ZSCORE = false, ZREM = 0}
  if empty[command] ~= nil then
    return empty[command]
  end
  return {err = 'DAMAGED ' .. key}
end

-- Stands for the server's `redis` in all that follows: one key that somebody damaged stops only what needs that key.
-- Every command of every script comes through here, so the usual case costs one call and one comparison.
local server, redis = redis, {}
local send, type = server.pcall, type
function redis.pcall(command, ...)
  local reply = send(command, ...)
  if type(reply) == 'table' and reply.err and string.find(reply.err, 'WRONGTYPE', 1, true) then
    return reply_to_damage(server, reply, command, ...)
  end
  return reply
end
function redis.call(command, ...)
  local reply = send(command, ...)
  if type(reply) ~= 'table' or not reply.err then
    return reply
  end
  if string.find(reply.err, 'WRONGTYPE', 1, true) then
    reply = reply_to_damage(server, reply, command, ...)
  end
  if type(reply) == 'table' and reply.err then
    return error(reply)
  end
  return reply
end

-- Fail, and name it, where one of these sets of the schedule is of another type: before anything is written.
local function require_sets(...)
  for _, set in ipairs({...}) do
    local size = server.pcall('ZCARD', set)
    if type(size) == 'table' then
      redis.call('ZCARD', set) -- notes it
      error({err = 'DAMAGED ' .. set})
    end
  end
end

-- Stands for the server's `tonumber`: of a text that is no number, which somebody wrote into a field, it returns 0, so
-- that comparing it fails no script. Of nothing it returns nil. An argument that may be "" takes maybe_number.
local maybe_number = tonumber
local function tonumber(text)
  local found = maybe_number(text)
  return found == found and found or text and 0 or nil
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

-- Return whether a member of a sorted set can be a grant's id (as model.GRANT_ID): brokers write no other.
local function is_grant_id(id)
  return #id <= 128 and string.match(id, '^%w[%w._-]*$') ~= nil
end

-- Return a field as a number; `otherwise` where it is missing, or somebody wrote what is none.
local function number(text, otherwise)
  if type(text) == 'number' then
    return text
  end
  return text and #text <= 15 and string.match(text, '^%-?%d+%.?%d*$') and tonumber(text) or otherwise
end

-- Return fields of a grant's hash as HMGET does, and whether its key holds something else: then every field is missing.
-- One key that somebody damaged must not fail a script that reads many.
local function read_fields(grant, ...)
  local stored = redis.pcall('HMGET', grant, ...)
  if not stored.err then
    return stored, false
  end
  if not string.find(stored.err, 'WRONGTYPE', 1, true) then
    return error(stored)
  end
  stored = {}
  for i = 1, select('#', ...) do
    stored[i] = false
  end
  return stored, true
end

-- Append to the last ten attempts of a grant. Protected: an error here must not undo what was decided of the attempt.
local function record_attempt(attempts, decision, record)
  redis.pcall('RPUSH', attempts, decision .. '\t' .. record)
  redis.pcall('LTRIM', attempts, -10, -1)
end

-- Take a grant whose hash is gone out of its set, and note that it is lost, where it stood, and since when.
local function note_lost(lost, ids, grant_id, provider, state, score)
  redis.call('ZREM', ids, grant_id)
  if not is_grant_id(grant_id) then
    return
  end
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
  return issued_at and number(issued_at, -1) >= number(granted_at, 0)
end

-- Note that subscribers heard of a problem of the grant, before its traces are removed: the refresh that ends the problem
-- is its recovery. A refresh by a broker that does not know the note makes another generation, and the note void.
local function note_recovering(grant, generation)
  local stored = redis.call('HMGET', grant, 'reason', 'failures', 'recovering', 'generation')
  if stored[1] or number(stored[2], 0) >= FAILING_AFTER or stored[3] and stored[3] == stored[4] then
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

-- Keep a grant's place in the index, by its hash: `ends` has every grant of a provider by when its access token ends
-- (epoch ms; 0: it has none), `failing` those of them that are parked or failed last time, by the same. Return whether
-- anything was out of place.
local function index_grant(grant, ends, failing, grant_id)
  local stored, damaged = read_fields(grant, 'expires_at', 'reason', 'failures')
  local ends_at = number(stored[1]) and stored[1] or '0'
  local is_failing = damaged or stored[2] or number(stored[3], 0) > 0
  local moved = redis.call('ZADD', ends, 'CH', ends_at, grant_id)
  return moved + (is_failing and redis.call('ZADD', failing, 'CH', ends_at, grant_id)
    or redis.call('ZREM', failing, grant_id)) > 0
end

-- Have the index say of a grant, found in the sets of `provider`, what its hash says. Return the grant's provider (false:
-- it is gone), and whether anything was out of place.
local function reindex_grant(grant_prefix, ends_prefix, failing_prefix, provider, grant_id)
  local grant, moved = grant_prefix .. grant_id, false
  local stored, damaged = read_fields(grant, 'provider')
  local current = damaged and provider or stored[1]
  if not is_grant_id(grant_id) then
    current = false
  end
  if current ~= provider then
    moved = redis.call('ZREM', ends_prefix .. provider, grant_id)
      + redis.call('ZREM', failing_prefix .. provider, grant_id) > 0
  end
  if current then
    moved = index_grant(grant, ends_prefix .. current, failing_prefix .. current, grant_id) or moved
  end
  return current, moved
end

-- Return whether the first place in a sorted set is behind the second. Compares bytes, as Redis does: Lua compares text
-- as the server's locale has it.
local function is_behind(score, member, other_score, other)
  if score ~= other_score then
    return score > other_score
  end
  for i = 1, math.min(#member, #other) do
    local byte, other_byte = string.byte(member, i), string.byte(other, i)
    if byte ~= other_byte then
      return byte > other_byte
    end
  end
  return #member > #other
end

-- Return how many members of a sorted set stand at a place or before it; without a member: all with that score.
-- A search by rank, which takes no command that brokers were not allowed before (ZCOUNT).
local function rank_behind(set, score, member)
  local low, high, step = 0, redis.call('ZCARD', set), 0
  while low < high do
    local found = redis.call('ZRANGE', set, step, step, 'WITHSCORES') -- first of all the first: most sets end here
    local at = tonumber(found[2])
    if at > score or at == score and member and is_behind(at, found[1], score, member) then
      high = step
    else
      low = step + 1
    end
    step = math.floor((low + high) / 2)
  end
  return low
end
