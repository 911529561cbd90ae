-- ours: in front of every script. What another store holds is neither read nor written, whatever its grants are called.
--
-- Takes the last of KEYS (meta) and the last of ARGV (id of the store we know) away.
do
  local store = redis.call('HGET', table.remove(KEYS), 'store')
  if store ~= table.remove(ARGV) then
    return redis.error_reply('FOREIGN ' .. (store or ''))
  end
end
