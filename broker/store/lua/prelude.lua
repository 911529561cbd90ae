-- prelude: in front of every script. What another store holds is neither read nor written, whatever its grants are called.
--
-- Takes the last of KEYS (meta) and the last of ARGV (id of the store we know) away, and gives scripts that settle an
-- attempt one way to remember it.
do
  local store = redis.call('HGET', table.remove(KEYS), 'store')
  if store ~= table.remove(ARGV) then
    return redis.error_reply('FOREIGN ' .. (store or ''))
  end
end
-- The last ten attempts of a grant. Protected: whatever becomes of its history, what was settled stands.
local function record_attempt(attempts, decided, attempt)
  redis.pcall('RPUSH', attempts, decided .. '\t' .. attempt)
  redis.pcall('LTRIM', attempts, -10, -1)
end
