-- Puts new contents in the place of a pipeline's state, whole or not at all. Whoever ran the pipeline finds
-- itself fenced off: no owner is left.
--
-- KEYS: meta, state, foretold, positions, the new state. ARGV: 1 the mark of who replaces, 2 the epoch that
-- is to be replaced, and packed as in commit.lua: 3 the fields of meta, 4 the positions; then 5 epoch and
-- 6 facts of what was foretold, if anything was. Answers {"ok"} or {"changed"}.
local function put(hash, packed)
  local at = 1
  while at <= #packed do
    local length, field
    length, at = struct.unpack('>I4', packed, at)
    field = string.sub(packed, at, at + length - 1)
    length, at = struct.unpack('>I4', packed, at + length)
    redis.call('HSET', hash, field, string.sub(packed, at, at + length - 1))
    at = at + length
  end
end

if redis.call('HGET', KEYS[1], 'incoming') ~= ARGV[1] then return {'changed'} end
if (redis.call('HGET', KEYS[1], 'epoch') or '0') ~= ARGV[2] then return {'changed'} end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
if redis.call('EXISTS', KEYS[5]) == 1 then redis.call('RENAME', KEYS[5], KEYS[2]) end
put(KEYS[1], ARGV[3])
put(KEYS[4], ARGV[4])
if ARGV[5] then redis.call('HSET', KEYS[3], 'epoch', ARGV[5], 'facts', ARGV[6]) end
return {'ok'}
