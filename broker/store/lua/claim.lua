#!lua
-- claim: lease up to n due grants of one provider, each for one token request.
--
-- KEYS: due leased parked provider epoch grant_prefix attempts_prefix lost
-- ARGV: n lease_ms claim_id provider_name half_close_after hold_off_ms pass_over replayed_after second_term_ms replica
--   n: free slots
--   half_close_after: failures in a row after which a lane sends one request at a time
--   hold_off_ms: how long nobody claims after another run of the server was noticed
--   pass_over: "", or how many grants to skip in the search for those whose token has expired
--   replayed_after: the fence (its open_at) after which this replica replayed its journal
--   second_term_ms: how much longer a lease lasts once its end was seen
--   replica: name of the replica that claims
-- Returns: {status, now, wait_ms, number, claimed...}
--   status: ok; back (the clock was set back); fenced; blind (the server does not say which run of it this is)
--   wait_ms: time until there may be more to claim
--   claimed: the cells of a grant; {id} alone: its key holds no hash, so it was parked
--   number: fenced: when the fence opens, or opened without this replica; ok, back: how many to pass over next time
local due, leased, parked, provider, epoch, grant_prefix, attempts_prefix, lost = unpack(KEYS)
local n, lease_ms, claim_id, provider_name, half_close_after, hold_off_ms, pass_over, replayed_after, second_term_ms,
  replica = unpack(ARGV)
n, lease_ms, half_close_after = tonumber(n), tonumber(lease_ms), tonumber(half_close_after)
hold_off_ms, pass_over, second_term_ms = tonumber(hold_off_ms), maybe_number(pass_over), tonumber(second_term_ms)

require_sets(due, leased)
local now = now_ms()

-- Another run of the server (restart, failover, restore) may have lost acknowledged writes. Nobody claims until every
-- replica had the time to replay its journal. A server that hides its run cannot be fenced.
local info = redis.pcall('INFO', 'server')
local run_id = type(info) == 'string' and string.match(info, 'run_id:(%x+)')
if not run_id then
  return {'blind', now, 1000, 0}
end
local seen = redis.call('HMGET', epoch, 'run_id', 'open_at', 'hold_off')
if seen[1] ~= run_id then
  local new = seen[1] == 'new' -- a store that has just begun; one without an epoch lost it
  seen[2] = new and now or now + hold_off_ms
  redis.call('HSET', epoch, 'run_id', run_id, 'open_at', seen[2], 'hold_off', hold_off_ms)
  if not new then
    return {'fenced', now, hold_off_ms, seen[2]}
  end
end
seen[2] = number(seen[2], 0) -- what no reply could say stopped all claims
-- A fence that opens later than its hold-off allows was written before the clock was set back: it does not count.
local closed_for = tonumber(seen[2] or 0) - now
if closed_for > 0 and closed_for <= math.max(hold_off_ms, tonumber(seen[3] or 0)) then
  return {'fenced', now, closed_for, tonumber(seen[2])}
end
-- Open, but this replica has not replayed its journal yet: it was cut off meanwhile, or has just started.
if tonumber(seen[2] or 0) ~= tonumber(replayed_after) then
  return {'fenced', now, 0, tonumber(seen[2] or 0)}
end

local lane = redis.call('HMGET', provider, 'not_before', 'suspended', 'ailing', 'seen_at', 'witness_at')
local status, seen_at = 'ok', tonumber(lane[4] or now)

-- A lease that ended first gets a second term, and the mark in its score: the server may have been frozen, cut off or
-- moved ahead in time, and the holder may still be asking, or about to commit an answer. A lease that ended again goes
-- back to due. Its attempt stays open: the next claim sees that.
local ended = redis.call('ZRANGEBYSCORE', leased, '-inf', now, 'WITHSCORES', 'LIMIT', 0, 128)
for i = 1, #ended, 2 do
  local id, ended_at = ended[i], tonumber(ended[i + 1])
  local stored, damaged = read_fields(grant_prefix .. id, 'provider')
  if ended_at - math.floor(ended_at) ~= SECOND_TERM_MARK then
    redis.call('ZADD', leased, now + second_term_ms + SECOND_TERM_MARK, id)
  elseif not stored[1] and not damaged then
    note_lost(lost, leased, id, provider_name, 'leased', ended_at)
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

-- No request before not_before; then, and in a half-closed lane, one request at a time.
local not_before = tonumber(lane[1] or 0)
local only_witness = not_before > now
if only_witness and not (lane[2] and tonumber(lane[5] or not_before) <= now) then
  return {status, now, math.min(not_before, tonumber(lane[2] and lane[5] or not_before)) - now, 0}
end
local one_by_one = lane[1] or lane[2] or tonumber(lane[3] or 0) >= half_close_after
if one_by_one then
  if redis.call('ZCARD', leased) > 0 then
    return {status, now, 250, 0}
  end
  n = math.min(n, 1)
end

-- Return the due grant to probe a provider with, and its score. A grant that was refused goes behind all others, and one
-- that never had a token, which proves nothing, behind those that had. After refusals the grant that succeeded last
-- tells most.
local function probe()
  local pages = {redis.call('ZRANGEBYSCORE', due, '-inf', now, 'WITHSCORES', 'LIMIT', 0, 64)}
  if #pages[1] == 128 then
    pages[2] = redis.call('ZRANGE', due, now, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 64, 'WITHSCORES')
  end
  local best, best_rank, best_at = {}, only_witness and 1 or 3, math.huge
  for _, page in ipairs(pages) do
    for i = 1, #page, 2 do
      local stored = read_fields(grant_prefix .. page[i], 'issued_at', 'refused', 'answered_at', 'granted_at')
      local count, _, last = refusals(stored[2], now)
      local rank, at = 1, tonumber(page[i + 1])
      if count > 0 then
        rank, at = 3, last
      elseif not is_of_grant(stored[1], stored[4]) then
        rank = 2
      elseif lane[2] then
        at = -number(stored[3] or stored[1], 0)
      end
      if rank < best_rank or rank == best_rank and at < best_at then
        best, best_rank, best_at = {page[i], page[i + 1]}, rank, at
      end
    end
  end
  return best
end

local reply = {status, now, 0, 0}
local ids = {}
if only_witness or one_by_one and n > 0 and not pass_over then
  ids = probe()
  if only_witness and #ids == 0 then
    return {status, now, math.min(not_before - now, 2000), 0}
  end
elseif not pass_over then
  ids = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'WITHSCORES', 'LIMIT', 0, n)
elseif n > 0 then
  -- The first to be due is not the first to expire, so all due grants are searched, a part of them in each claim.
  local searched, page = 0, nil
  repeat
    page = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'WITHSCORES', 'LIMIT', pass_over + #ids / 2, 256)
    for i = 1, #page, 2 do
      if #ids < 2 * n then
        if number(read_fields(grant_prefix .. page[i], 'expires_at')[1], 0) <= now then
          ids[#ids + 1] = page[i]
          ids[#ids + 1] = page[i + 1]
        else
          pass_over = pass_over + 1
        end
      end
    end
    searched = searched + 256
  until #page < 512 or #ids >= 2 * n or searched >= 1024
  reply[4] = (#page < 512 and #ids < 2 * n) and 0 or pass_over
end
for i = 1, #ids, 2 do
  local id, grant = ids[i], grant_prefix .. ids[i]
  local stored, damaged = read_fields(grant, 'provider', 'generation', 'refresh_token', 'access_token', 'scope',
    'issued_at', 'expires_at', 'granted_at', 'failures', 'unknown_at', 'attempt', 'attempt_at', 'attempt_by',
    'extra', 'stated_limits', 'refused', 'account', 'owner', 'label', 'recovering')
  redis.call('ZREM', due, id)
  if damaged then
    redis.pcall('ZADD', parked, now, id) -- protected: where that set is damaged too, the others are claimed all the same
    reply[#reply + 1] = {id}
  elseif stored[1] == provider_name and is_grant_id(id) then
    if stored[11] then
      -- Nobody recorded how the attempt before this one ended.
      stored[10] = stored[10] or stored[12]
      redis.call('HSET', grant, 'unknown_at', stored[10] or now)
      record_attempt(attempts_prefix .. id, 'open',
        table.concat({'unknown', math.floor(number(stored[12], now) / 1000), '', stored[13] or '', 'lease_ended', ''}, '\t'))
    end
    local attempt = claim_id .. '-' .. (i + 1) / 2
    redis.call('HSET', grant, 'attempt', attempt, 'attempt_at', now, 'attempt_by', replica)
    redis.call('ZADD', leased, now + lease_ms, id)
    local row = {id, attempt, ids[i + 1], stored[2], stored[3], stored[4], stored[5], stored[6], stored[7],
      stored[8], stored[9], stored[10], stored[14], stored[15], stored[16]}
    local recovering = stored[20] and stored[20] == stored[2]
    if stored[17] or stored[18] or stored[19] or recovering then
      row[16], row[17], row[18] = stored[17], stored[18], stored[19]
    end
    if recovering then
      row[19] = stored[20]
    end
    reply[#reply + 1] = row
  elseif not stored[1] then
    note_lost(lost, due, id, provider_name, 'due', ids[i + 1])
  end
end

local next_due = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2]
local next_end = redis.call('ZRANGE', leased, 0, 0, 'WITHSCORES')[2]
local next_at = math.min(tonumber(next_due or now + 60000), tonumber(next_end or now + 60000))
reply[3] = math.max(0, next_at - now)
return reply
