-- Notes how many entries were trimmed behind where a group is; answers how many of them are news.
--
-- KEYS: 1 the note. ARGV: 1 where the group is, 2 how many.
local before = redis.call('HMGET', KEYS[1], 'at', 'count')
local known = 0
if before[1] == ARGV[1] then known = tonumber(before[2]) end
local now = tonumber(ARGV[2])
if now <= known then return 0 end
redis.call('HSET', KEYS[1], 'at', ARGV[1], 'count', ARGV[2])
return now - known
