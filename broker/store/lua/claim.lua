#!lua
-- claim: lease up to n due grants of one provider, each for one token request.
--
-- KEYS  1 due  2 leased  3 provider  4 epoch  5 prefix of the grants' keys  6 and of their attempts' (all in one slot)
-- ARGV  1 n (free slots)  2 lease in ms  3 claim id  4 provider's name  5 failures that half-close a lane
--       6 hold-off in ms  7 "", or how many to pass over in looking for what has no living token any more
--       8 the fence after which we have told the store all we know  9 second term of a lease in ms
--       10 name of the replica that claims
-- Gives {status, now, ms until there may be more, how many to pass over next time, claimed...}; status: ok, back (the
-- clock was set back), fenced (the fourth item is when the fence opens, or opened without us), blind (the server does not
-- say which run of it this is).
local due, leased, provider, epoch, prefix = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local n, lease, claim_id, name, threshold = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local hold_off, pass_over, second_term = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[9])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Another run of the server (restart, failover, restore) may have lost what it had acknowledged. Nobody claims
-- until every replica had the time to say again what it knows. A server that hides its run cannot be fenced.
local info = redis.pcall('INFO', 'server')
local run_id = type(info) == 'string' and string.match(info, 'run_id:(%x+)')
if not run_id then
  return {'blind', now, 1000, 0}
end
local seen = redis.call('HMGET', epoch, 'run_id', 'open_at', 'hold_off')
if seen[1] ~= run_id then
  local new = seen[1] == 'new' -- a store that has just begun; one without an epoch lost it
  seen[2] = new and now or now + hold_off
  redis.call('HSET', epoch, 'run_id', run_id, 'open_at', seen[2], 'hold_off', hold_off)
  if not new then
    return {'fenced', now, hold_off, seen[2]}
  end
end
-- One that opens later than whoever closed it held off is of a clock that was set back since.
local closed_for = tonumber(seen[2] or 0) - now
if closed_for > 0 and closed_for <= math.max(hold_off, tonumber(seen[3] or 0)) then
  return {'fenced', now, closed_for, tonumber(seen[2])}
end
-- Open, but this replica has not said yet what it knows: it was cut off meanwhile, or has just started.
if tonumber(seen[2] or 0) ~= tonumber(ARGV[8]) then
  return {'fenced', now, 0, tonumber(seen[2] or 0)}
end

local lane = redis.call('HMGET', provider, 'not_before', 'suspended', 'ailing', 'seen_at')
local status, seen_at = 'ok', tonumber(lane[4] or now)

-- A lease that ended is first given a second term, marked by its half millisecond: the server may have been frozen,
-- cut off or moved ahead in time, and its holder may still be asking or about to commit what it was answered. One that
-- ended again goes back to due. Its attempt stays open: whoever claims it next sees that.
local ended = redis.call('ZRANGEBYSCORE', leased, '-inf', now, 'WITHSCORES', 'LIMIT', 0, 128)
for i = 1, #ended, 2 do
  local id, at = ended[i], tonumber(ended[i + 1])
  if at == math.floor(at) then
    redis.call('ZADD', leased, now + second_term + 0.5, id)
  else
    redis.call('ZREM', leased, id)
    redis.call('ZADD', due, now, id)
  end
end

if now < seen_at - 5000 then
  status = 'back'
elseif not lane[4] or now > seen_at + 10000 then
  redis.call('HSET', provider, 'seen_at', now)
end

-- Nothing before not_before; then, and in a half-closed lane, one request at a time.
local not_before = tonumber(lane[1] or 0)
if not_before > now then
  return {status, now, not_before - now, 0}
end
if lane[1] or lane[2] or tonumber(lane[3] or 0) >= threshold then
  if redis.call('ZCARD', leased) > 0 then
    return {status, now, 250, 0}
  end
  n = math.min(n, 1)
end

local reply = {status, now, 0, 0}
local ids = {}
if not pass_over then
  ids = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'WITHSCORES', 'LIMIT', 0, n)
elseif n > 0 then
  -- Due first is not expired first, so all that is due is looked through, a part in each claim.
  local looked, page = 0, nil
  repeat
    page = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'WITHSCORES', 'LIMIT', pass_over + #ids / 2, 256)
    for i = 1, #page, 2 do
      if #ids < 2 * n then
        if tonumber(redis.call('HGET', prefix .. page[i], 'expires_at') or 0) <= now then
          ids[#ids + 1] = page[i]
          ids[#ids + 1] = page[i + 1]
        else
          pass_over = pass_over + 1
        end
      end
    end
    looked = looked + 256
  until #page < 512 or #ids >= 2 * n or looked >= 1024
  reply[4] = (#page < 512 and #ids < 2 * n) and 0 or pass_over
end
for i = 1, #ids, 2 do
  local id, key = ids[i], prefix .. ids[i]
  local grant = redis.call('HMGET', key, 'provider', 'generation', 'refresh_token', 'access_token', 'scope',
    'issued_at', 'expires_at', 'granted_at', 'failures', 'unknown_at', 'attempt', 'attempt_at', 'attempt_by')
  redis.call('ZREM', due, id)
  if grant[1] == name then
    if grant[11] then
      -- Nobody wrote down what came of the attempt before this one.
      grant[10] = grant[10] or grant[12]
      redis.call('HSET', key, 'unknown_at', grant[10])
      record_attempt(KEYS[6] .. id, 'open',
        table.concat({'unknown', math.floor(grant[12] / 1000), '', grant[13] or '', 'lease_ended', ''}, '\t'))
    end
    local attempt = claim_id .. '-' .. (i + 1) / 2
    redis.call('HSET', key, 'attempt', attempt, 'attempt_at', now, 'attempt_by', ARGV[10])
    redis.call('ZADD', leased, now + lease, id)
    reply[#reply + 1] = {id, attempt, ids[i + 1], grant[2], grant[3], grant[4], grant[5], grant[6], grant[7],
      grant[8], grant[9], grant[10]}
  end
end

local next_due = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2]
local next_end = redis.call('ZRANGE', leased, 0, 0, 'WITHSCORES')[2]
local next_at = math.min(tonumber(next_due or now + 60000), tonumber(next_end or now + 60000))
reply[3] = math.max(0, next_at - now)
return reply
