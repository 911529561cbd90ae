#!lua flags=allow-oom
-- reindex: have the index of tokens' ends say what the grants' hashes say, some members of sets at a time.
--
-- KEYS: grant_prefix ends_prefix failing_prefix sets...
-- ARGV: limit score member providers...
--   sets: of grant ids
--   limit: how many members are examined
--   score, member: the place in the first set behind which to begin; "": the beginning
--   providers: whose each of the sets is
-- Returns: {place, score, member, examined, corrected}: in which set, behind which place, to go on (0: there is no more)
local grant_prefix, ends_prefix, failing_prefix = unpack(KEYS)
local sets = {unpack(KEYS, 4)}
local limit, score, member = unpack(ARGV)
local providers = {unpack(ARGV, 4)}
limit = tonumber(limit)

local rank = score ~= '' and rank_behind(sets[1], tonumber(score), member) or 0
local examined, corrected = 0, 0
for place = 1, #sets do
  local page = redis.call('ZRANGE', sets[place], rank, rank + limit - examined - 1, 'WITHSCORES')
  for i = 1, #page, 2 do
    local _, moved = reindex_grant(grant_prefix, ends_prefix, failing_prefix, providers[place], page[i])
    corrected = corrected + (moved and 1 or 0)
  end
  examined, rank = examined + #page / 2, 0
  if examined >= limit then
    return {place, page[#page], page[#page - 1], examined, corrected}
  end
end
return {0, '', '', examined, corrected}
