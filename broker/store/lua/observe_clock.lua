#!lua flags=allow-oom
-- observe_clock: read the clock and what the brokers agreed on about its steps, and change that.
--
-- KEYS: epoch anchor
-- ARGV: known offset rewound steady anchor_ms
--   anchor: what steady was in an earlier process on the same machine
--   known, offset: the offset that the caller read, and the one to store in its place; "" where it changes nothing
--   rewound: the offset to which every token with a higher one was rewound; or ""
--   steady: of this process, to be kept for anchor_ms; or ""
-- Returns: {now, offset, moved_at, rewound, seen_at, steady}
--   offset: the sum of all steps (ms); nil where none is stored
--   moved_at: when it changed last
--   seen_at: when the clock was read last, before this call
local epoch, anchor = unpack(KEYS)
local known, offset, rewound, steady, anchor_ms = unpack(ARGV)

local now = now_ms()
local stored = redis.call('HMGET', epoch, 'offset', 'seen_at')
if offset ~= '' and (stored[1] or '') == known then
  redis.call('HSET', epoch, 'offset', offset, 'offset_was', stored[1] or 0, 'offset_at', now)
  if tonumber(offset) > tonumber(redis.call('HGET', epoch, 'rewound') or 0) then
    redis.call('HSET', epoch, 'rewound', offset)
  end
  stored[1] = offset
end
if rewound ~= '' and rewound == (stored[1] or '0') then
  redis.call('HSET', epoch, 'rewound', rewound)
end
local kept = redis.call('GET', anchor)
if steady ~= '' then
  redis.call('SET', anchor, steady, 'PX', anchor_ms)
end
if math.abs(now - tonumber(stored[2] or 0)) >= 5000 then
  redis.call('HSET', epoch, 'seen_at', now)
end
local agreed = redis.call('HMGET', epoch, 'offset_at', 'rewound')
return {now, stored[1], agreed[1] or 0, agreed[2] or 0, stored[2], kept}
