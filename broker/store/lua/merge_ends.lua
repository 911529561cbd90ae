#!lua flags=allow-oom
-- merge_ends: list grants of many providers by when their tokens end, as if their sets were one. A grant that is out of
-- place is put into its place, and listed there unless that place is behind.
--
-- KEYS: grant_prefix ends_prefix failing_prefix
-- ARGV: kind score member upto limit providers...
--   kind: ends, failing, or healthy (ends without those that are failing)
--   score, member: the place behind which the list begins; "": the beginning
--   upto: the last score, or "" (without limit)
--   limit: how many members are examined
-- Returns: {score, member, {number of the provider, grant_id, score}...}: behind which place the list goes on; "": nowhere
local grant_prefix, ends_prefix, failing_prefix = unpack(KEYS)
local kind, score, member, upto, limit = unpack(ARGV)
local providers = {unpack(ARGV, 6)}
score, upto, limit = maybe_number(score) or -1, maybe_number(upto) or math.huge, tonumber(limit)

local set_prefix = kind == 'failing' and failing_prefix or ends_prefix
local size = math.ceil(2 * limit / #providers)

-- Go on to the next member of a set; return false at its end.
local function advance(head)
  head.next = head.next + 2
  if head.next > #head.page then
    head.page = redis.call('ZRANGE', head.set, head.rank, head.rank + size - 1, 'WITHSCORES')
    head.rank, head.next = head.rank + size, 1
  end
  head.member, head.score = head.page[head.next], tonumber(head.page[head.next + 1])
  return head.member and head.score <= upto
end

local function is_first(one, other)
  return is_behind(other.score, other.member, one.score, one.member)
end

-- All sets are read before any is changed: their members have not moved when they are taken.
local heads = {}
for i = 1, #providers do
  local head = {place = i, set = set_prefix .. providers[i], page = {}, next = 1}
  head.rank = score < 0 and 0 or rank_behind(head.set, score, member)
  if advance(head) then
    heads[#heads + 1] = head
  end
end
table.sort(heads, is_first)

local taken = {}
while #heads > 0 and #taken < limit do
  local head = heads[1]
  taken[#taken + 1] = {head.place, head.member, head.score}
  if not advance(head) then
    table.remove(heads, 1)
  else
    local i = 1
    while heads[i + 1] and is_first(heads[i + 1], head) do
      heads[i], i = heads[i + 1], i + 1
    end
    heads[i] = head
  end
end

local reply = {'', ''}
if #heads > 0 then
  reply = {string.format('%.0f', taken[#taken][3]), taken[#taken][2]}
end
for _, row in ipairs(taken) do
  local place, id, at = unpack(row)
  local provider = providers[place]
  local current, moved = reindex_grant(grant_prefix, ends_prefix, failing_prefix, provider, id)
  if current == provider then
    local is_failing = kind ~= 'ends' and redis.call('ZSCORE', failing_prefix .. provider, id)
    local comes_later = moved and tonumber(redis.call('ZSCORE', ends_prefix .. provider, id)) > at
    local listed_before = kind == 'healthy' and is_failing and not moved
    if not comes_later and not listed_before and (kind ~= 'failing' or is_failing) then
      reply[#reply + 1] = {place, id, string.format('%.0f', at)}
    end
  end
end
return reply
