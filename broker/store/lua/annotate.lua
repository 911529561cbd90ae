#!lua
-- annotate: set what people say of a grant, owner and label, if there is such a grant.
--
-- KEYS: grant
-- ARGV: fields...
--   fields: fields of the grant, each with its value; "" removes what was there, in the eyes of a reader
-- Returns: annotated or gone
local grant = unpack(KEYS)
local fields = ARGV

if not redis.call('HGET', grant, 'provider') then
  return 'gone'
end
redis.call('HSET', grant, unpack(fields))
return 'annotated'
