-- Takes a consumer off its group's list, unless entries are pending for it.
--
-- KEYS: 1 the stream. ARGV: 1 the group, 2 the consumer.
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if #pending == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
return redis.status_reply('OK')
