-- Takes partitions over: from now on whoever had them commits nothing of them.
--
-- KEYS: positions. ARGV: 1 the owner, then the partitions.
-- A field is "owner LF attempt LF position". Answers each partition's field as it is now.
local claimed = {}
for i = 2, #ARGV do
  local position = ''
  local now = redis.call('HGET', KEYS[1], ARGV[i])
  if now then position = string.match(now, '^[^\n]*\n[^\n]*\n(.*)$') or '' end
  local value = ARGV[1] .. '\n\n' .. position
  redis.call('HSET', KEYS[1], ARGV[i], value)
  claimed[#claimed + 1] = value
end
return claimed
