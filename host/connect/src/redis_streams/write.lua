-- Writes a sink's outputs, unless another process writes for it now.
--
-- KEYS: 1 the stream, 2 who writes. ARGV: 1 who asks, '' where several processes write, 2 the field, 3 max_len or '', then id and value of each.
-- Answers the last entry's id, or nothing where another process writes. A note that Redis has lost is nobody
-- else's.
if ARGV[1] ~= '' then
  local writer = redis.call('GET', KEYS[2])
  if not writer then
    redis.call('SET', KEYS[2], ARGV[1])
  elseif writer ~= ARGV[1] then
    return false
  end
end
local last
for at = 4, #ARGV, 2 do
  if ARGV[3] == '' then
    last = redis.call('XADD', KEYS[1], '*', 'id', ARGV[at], ARGV[2], ARGV[at + 1])
  else
    last = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'id', ARGV[at], ARGV[2], ARGV[at + 1])
  end
end
return last
