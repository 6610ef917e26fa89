-- Notes how far the owner of a stream's log is.
--
-- KEYS: 1 the owner, 2 the note. ARGV: 1 who asks, 2 offset, 3 how many entries were added before it, or ''.
-- Answers 0 where another process has the log. An owner that Redis has lost is nobody else's.
local owner = redis.call('GET', KEYS[1])
if not owner then
  redis.call('SET', KEYS[1], ARGV[1])
elseif owner ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[2], 'offset', ARGV[2], 'entries', ARGV[3])
return 1
