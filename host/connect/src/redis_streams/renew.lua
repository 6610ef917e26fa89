-- Renews entries that a process has in hand, if they are its own still.
--
-- KEYS: 1 the stream. ARGV: 1 the group, 2 the consumer, 3 for how many milliseconds an entry must have been idle,
-- then the entries' ids.
for i = 4, #ARGV do
  -- To claim one that was trimmed would end its being pending, and with it what is written of it.
  if #redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i], 'COUNT', 1) > 0 then
    -- One that was taken over meanwhile is not idle, and stays the other's.
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[i], 'JUSTID')
  end
end
return redis.status_reply('OK')
