-- Acknowledges entries, each together with what is written of it: whoever is the first to acknowledge an entry
-- writes its outputs, and nobody else ever does.
--
-- KEYS: 1 the source's stream, then the sinks'.
-- ARGV: 1 the group, then for each sink its field and its max_len or ''; then for each entry its id, or '' for
-- outputs of none, and how many outputs it has, and for each of them sink, id and value.
-- Answers how many entries were acknowledged by somebody before.
local sinks = #KEYS - 1
for i = 1, sinks do
  -- A script that fails half-way is not undone: all that can fail is asked before.
  local kind = redis.call('TYPE', KEYS[1 + i]).ok
  if kind ~= 'none' and kind ~= 'stream' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[1 + i] .. ' is a ' .. kind)
  end
  if redis.acl_check_cmd and not redis.acl_check_cmd('XADD', KEYS[1 + i], '*', 'id', '') then
    return redis.error_reply('NOPERM this user may not XADD to ' .. KEYS[1 + i])
  end
end
local at, again = 2 + 2 * sinks, 0
while at < #ARGV do
  local entry, outputs = ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  local counts = entry == '' or redis.call('XACK', KEYS[1], ARGV[1], entry) == 1
  if not counts then again = again + 1 end
  for _ = 1, outputs do
    if counts then
      local sink = tonumber(ARGV[at])
      local key, field, max = KEYS[2 + sink], ARGV[2 + 2 * sink], ARGV[3 + 2 * sink]
      if max == '' then
        redis.call('XADD', key, '*', 'id', ARGV[at + 1], field, ARGV[at + 2])
      else
        redis.call('XADD', key, 'MAXLEN', '~', max, '*', 'id', ARGV[at + 1], field, ARGV[at + 2])
      end
    end
    at = at + 3
  end
end
return again
